"""What lies in a folder of checkpoints, and what can be read at all."""
