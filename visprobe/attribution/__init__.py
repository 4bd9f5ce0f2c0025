"""Where a model looks: maps over image tokens of a number that the model gives to each image."""
