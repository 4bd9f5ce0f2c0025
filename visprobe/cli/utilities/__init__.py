"""Commands about the program and this machine."""
