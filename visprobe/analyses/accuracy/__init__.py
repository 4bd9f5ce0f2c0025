"""Accuracy of prototypes, neighbours, zero-shot classification and the published protocol."""
