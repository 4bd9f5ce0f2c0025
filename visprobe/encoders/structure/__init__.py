"""Structure of an encoder: families of towers and of models, connectors, grids and tiles."""
