"""What a checkpoint knows of language beside its vision tower: text tower, words."""
