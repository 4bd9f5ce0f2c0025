"""Training rows from published files: one reader per format, none of which holds its rows in memory."""
