"""Command line interface; no command imports torch before it runs."""
