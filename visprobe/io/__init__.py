"""Files: the only package that writes to final paths."""
