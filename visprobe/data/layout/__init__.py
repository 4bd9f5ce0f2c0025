"""From a folder as people have it to its splits and classes."""
