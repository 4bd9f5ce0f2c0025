"""What every caption has to say: how many units the numbers rest on and what the intervals are."""

from __future__ import annotations

from collections.abc import Iterable

from visprobe.results.result import Row


def rests_on(rows: Iterable[Row], unit: str) -> str:
    """One sentence with n and the interval methods of `rows`, such as "n = 1,000 images; intervals: Wilson 95 %".

    Args:
        rows: The rows that a figure shows.
        unit: What n counts, in the plural.
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
