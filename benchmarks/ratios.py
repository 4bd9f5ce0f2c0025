"""The line by which a benchmark says a ratio, so that all of them end in one table."""

MARK = "ratio: "


def ratio(what, value):
    """Say that `what`, a quotient of two things measured in one run, is `value`."""
    print(f"{MARK}{what}: {value:.3g}", flush=True)
