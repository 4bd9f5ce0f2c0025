"""The built-in digit scenes, and everything that is special to them."""
