"""Training backend: makes checkpoints to compare, from one base on the same rows."""
