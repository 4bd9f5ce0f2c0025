"""Classes of pixels from patch features."""
