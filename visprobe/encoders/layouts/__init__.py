"""Checkpoints that are not laid out as transformers saves a multimodal model: bare towers, original code."""
