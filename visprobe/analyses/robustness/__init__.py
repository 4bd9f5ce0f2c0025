"""Robustness to damaged, small or cropped images."""
