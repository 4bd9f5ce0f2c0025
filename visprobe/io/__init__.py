"""Reading and writing files: the only package that writes to final paths."""
