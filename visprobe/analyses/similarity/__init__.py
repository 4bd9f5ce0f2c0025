"""Further measures of similarity, and the geometry of each representation."""
