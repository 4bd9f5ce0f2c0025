"""Shared parts of figures: style, axes, marks, legends, saving. Each figure lies beside what it shows."""
