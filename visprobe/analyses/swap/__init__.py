"""Which part of the encoder carries the difference between two checkpoints?"""
