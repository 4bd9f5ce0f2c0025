"""The training backend: checkpoints to compare, made from one base on the same rows."""
