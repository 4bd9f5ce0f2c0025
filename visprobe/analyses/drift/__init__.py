"""Drift of the representation of the same images: where in the encoder, and how far."""
