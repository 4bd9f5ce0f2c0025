"""Targets of attribution: the number that a tower, or a whole model, gives to an image."""
