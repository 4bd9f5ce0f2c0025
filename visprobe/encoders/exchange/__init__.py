"""Parts of checkpoints exchanged or taken out."""
