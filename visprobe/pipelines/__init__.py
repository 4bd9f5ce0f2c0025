"""What a command runs: checkpoints and data in, a measurement out; also the Python functions of the same names."""
