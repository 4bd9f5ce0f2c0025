"""Folder of a training run: its files, and resuming from them."""
