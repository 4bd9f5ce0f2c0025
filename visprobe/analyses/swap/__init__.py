"""Exchange of parts of the encoder between two checkpoints."""
