"""What of a digit scene can be read linearly: an analysis with its figure, registered as a plug-in would be."""
