"""HTML page of a report, in one file."""
