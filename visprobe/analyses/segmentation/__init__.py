"""Segmentation by small heads on frozen patch features."""
