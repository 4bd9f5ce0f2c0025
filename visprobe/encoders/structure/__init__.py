"""How an encoder is built: families of towers and of models, connectors, grids and tiles."""
