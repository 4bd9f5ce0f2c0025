"""Figures of attribution maps and of their scores."""
