"""Pure functions on arrays; nothing here knows of files, encoders or torch modules."""
