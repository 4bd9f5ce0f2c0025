"""Figures of maps and of their scores."""
