"""Sentences with the rows that they rest on, and formats of numbers in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from visprobe.results.result import Estimate, Result, Row


@dataclass(frozen=True)
class Statement:
    """Sentence and the rows that it rests on.

    Attributes:
        text: The sentence.
        evidence: For each row "analysis", "checkpoint", "site", "measure", "role" and, if it has one, "reference":
            with all but the first, `Result.select` finds the row.
    """

    text: str
    evidence: tuple[dict[str, str], ...]


def sign_of(estimate: Estimate) -> int:
    """Return 1 or -1 if the interval excludes 0, else 0."""
    return int(estimate.low > 0) - int(estimate.high < 0)


def above_baseline(result: Result, row: Row, baseline: str) -> tuple[bool, str] | None:
    """Compare a checkpoint with a baseline by their paired difference over the same images.

    Args:
        result: An accuracy whose settings hold "against_baselines".
        row: The checkpoint's row.
        baseline: Name of the baseline.

    Returns:
        True if the checkpoint is above the baseline, and the difference in words; None where the two were not compared.
    """
    for one in result.settings.get("against_baselines", []):
        if (one["checkpoint"], one["reference"], one["site"], one["measure"]) == (
            row.checkpoint, baseline, row.site, row.measure,
        ):  # fmt: skip
            difference = replace(row.estimate, value=one["value"], low=one["low"], high=one["high"])
            return one["low"] > 0, points(difference)
    return None


def evidence(result: Result, rows: Sequence[Row]) -> tuple[dict[str, str], ...]:
    """Return references to `rows` of `result`, for a statement."""
    return tuple(
        {
            "analysis": result.analysis,
            "checkpoint": row.checkpoint,
            "site": row.site,
            "measure": row.measure,
            "role": row.role,
            **({"reference": row.reference} if row.reference else {}),
        }
        for row in rows
    )


def compared(row: Row, own: Sequence[Row], other: Sequence[Row]) -> str:
    """Format two shares and their paired difference: "61.2 % against 60.0 %, difference +1.2 points [+0.3, +2.1]"."""
    return f"{share(own[0])} against {share(other[0])}, difference {points(row.estimate)}, n = {row.estimate.n}"


def points(estimate: Estimate) -> str:
    """Format a difference of shares: "+1.2 points [+0.3, +2.1]"."""
    # An interval that excludes 0 must not be printed with an end of 0.0.
    digits = 2 if sign_of(estimate) and round(100 * min(abs(estimate.low), abs(estimate.high)), 1) == 0 else 1
    low, high = (signed(100 * end, digits) for end in (estimate.low, estimate.high))
    return f"{signed(100 * estimate.value, digits)} points [{low}, {high}]"


def share(row: Row) -> str:
    """Format a share in per cent: "61.2 %", with more digits where it is small."""
    value = 100 * row.estimate.value
    if 99.95 <= value < 100:
        return "more than 99.9 %"
    # Two significant digits below 0.1 %, so that a small relative change is not printed as none.
    return f"{value:.2g} %" if 0 < value < 0.1 else f"{value:.1f} %"


def percent_interval(estimate: Estimate) -> str:
    """Format a share in per cent and its interval: "61.2 % [58.1, 64.2]"."""
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def cka_interval(estimate: Estimate) -> str:
    """Format a CKA and its interval, with decimals enough to show its distance from 1: "0.981 [0.975, 0.987]"."""
    digits = digits_for(estimate.value - 1, (estimate.high - estimate.low) / 2)
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def cka_text(value: float) -> str:
    """Format a CKA with decimals enough to show its distance from 1."""
    return f"{value:.{digits_for(value - 1)}f}"


def digits_for(*distances: float) -> int:
    """Return the decimals, 3 to 8, that show the first digit of the smallest of some distances from 0."""
    smallest = min((abs(distance) for distance in distances if distance), default=1.0)
    return min(8, max(3, math.ceil(-math.log10(smallest) - 1e-9)))


def signed(value: float, digits: int) -> str:
    """Format a number with its sign, as tables print it (a real minus), but no signed zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence lists them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
