"""`python -m visprobe` is `visprobe`."""

from visprobe.cli.app import main

main()
