"""Demo: the built-in digit scenes, and a small model trained on them."""
