"""Checkpoint in, vision encoder out: tower, projector and processor, without the language model."""
