"""Commands about checkpoints themselves."""
