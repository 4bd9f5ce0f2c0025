"""Opened checkpoints, whatever wrapped, adapted, quantised or converted them."""
