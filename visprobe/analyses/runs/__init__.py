"""Many checkpoints of one recipe: along training, and over runs with other seeds."""
