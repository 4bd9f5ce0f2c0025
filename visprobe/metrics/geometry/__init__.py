"""Shape of one representation: rank, dimension, uniformity, outliers."""
