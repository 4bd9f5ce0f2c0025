"""Listing of the checkpoints in a folder, and of the families that can be read."""
