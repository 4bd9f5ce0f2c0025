"""Change of the weights: which, by how much, and in how many directions."""
