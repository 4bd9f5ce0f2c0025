"""The stages of post-training, on trl's trainers."""
