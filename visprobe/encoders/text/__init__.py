"""Language parts of a checkpoint beside its vision tower: text tower and token embeddings."""
