"""Checkpoints on the Hugging Face hub, read by byte range."""
