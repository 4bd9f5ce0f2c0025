"""Tensors by name from any container of weights."""
