"""Shared parts of all analyses: contract, registry, pairs of checkpoints, verdict, conditions on results."""
