"""What a training run leaves in its folder, and how it goes on from there."""
