"""Commands that measure encoders."""
