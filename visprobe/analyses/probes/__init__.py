"""Linear probes of an encoder's features."""
