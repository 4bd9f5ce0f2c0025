"""Pipelines behind the commands: checkpoints and data in, a measurement out; also the public Python functions."""
