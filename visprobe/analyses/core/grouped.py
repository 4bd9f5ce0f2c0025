"""Grouped statements on many checkpoints: one per finding, with the checkpoints it is true of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from visprobe.results.result import Result, Row
from visprobe.results.statement import Statement, digits_for, evidence, listed, sign_of, signed

Text = Callable[[Row], str]


def pairs_apart(result: Result, names: Sequence[str], site: str, measure: str, what: str) -> Iterator[Statement]:
    """Yield a statement on how many pairs of descendants differ, and which differs most."""
    rows = [row for row in result.select(site=site, measure=measure, role="difference")
            if row.checkpoint in names and row.reference in names]  # fmt: skip
    if not rows:
        return
    apart = [row for row in rows if sign_of(row.estimate)]
    text = f"Pairs of descendants that differ in {what} at {site}: {len(apart)} of {len(rows)}"
    if apart:
        most = max(apart, key=lambda row: abs(row.estimate.value))
        text += f", most {most.checkpoint} from {most.reference}: {_difference(most)}"
    by_chance = max(1, round(0.05 * len(rows)))
    text += f". Intervals are 95 % each: about {by_chance} would by chance."
    yield Statement(text, evidence(result, apart))


def ranged(result: Result, rows: Sequence[Row], words: str, text: Text) -> Statement:
    """State `words` of the checkpoints of `rows`, with the smallest and the largest number as `text` formats them."""
    return Statement(f"{names_of(rows)}: {words} {span(rows, text)}.", evidence(result, rows))


def names_of(rows: Sequence[Row]) -> str:
    """Join the names of the checkpoints of `rows`."""
    return listed([row.checkpoint for row in rows])


def span(rows: Sequence[Row], text: Text) -> str:
    """Format the smallest and the largest value, each with its checkpoint."""
    least, most = (pick(rows, key=lambda row: row.estimate.value) for pick in (min, max))
    if least is most:
        return text(least)
    return f"from {text(least)} ({least.checkpoint}) to {text(most)} ({most.checkpoint})"


def points_of(row: Row) -> str:
    """Format a difference of shares in percentage points, without its interval."""
    return f"{signed(100 * row.estimate.value, 1)} points"


def _difference(row: Row) -> str:
    estimate = row.estimate
    if row.measure == "top1":
        return f"{points_of(row)} [{signed(100 * estimate.low, 1)}, {signed(100 * estimate.high, 1)}]"
    digits = digits_for(estimate.low, estimate.high)
    return f"{signed(estimate.value, digits)} [{signed(estimate.low, digits)}, {signed(estimate.high, digits)}]"
