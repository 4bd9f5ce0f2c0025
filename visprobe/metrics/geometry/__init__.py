"""What shape has one representation: rank, dimension, uniformity, outliers?"""
