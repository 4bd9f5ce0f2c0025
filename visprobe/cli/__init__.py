"""The command line; no command imports torch before it runs."""
