"""Parts of captions that all figures share: the number of units and the kind of intervals."""

from __future__ import annotations

from collections.abc import Iterable

from visprobe.results.result import Row


def rests_on(rows: Iterable[Row], unit: str) -> str:
    """Return one sentence with n and the interval methods of `rows`.

    For example "n = 1,000 images; intervals: Wilson 95 %."

    Args:
        rows: Rows that a figure shows.
        unit: Name of what n counts, in the plural.
    """
    rows = list(rows)
    counts = [row.estimate.n for row in rows]
    methods = list(dict.fromkeys(row.estimate.method for row in rows))
    if not counts:
        return "No numbers."
    span = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    if methods == ["exact"]:
        return f"Exact over n = {span} {unit}."
    return f"n = {span} {unit}; intervals: {', '.join(methods)}."
