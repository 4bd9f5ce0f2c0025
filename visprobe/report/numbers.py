"""Formatting of numbers and intervals as in a paper, with significant digits only."""

from __future__ import annotations

import math

from visprobe.results.result import Estimate, Role

_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def value_text(estimate: Estimate, role: Role = "value") -> str:
    """Format the point estimate: "61.2 %", "+1.1" (percentage points), "0.99987", "4.1·10⁻⁵"."""
    suffix = " %" if estimate.unit == "fraction" and role != "difference" else ""
    return _number(estimate.value, estimate, role) + suffix


def interval_text(estimate: Estimate, role: Role = "value") -> str:
    """Format the interval in brackets, with the digits of the value; empty for an exact number."""
    if estimate.low == estimate.high:
        return ""
    return f"[{_number(estimate.low, estimate, role)}, {_number(estimate.high, estimate, role)}]"


def _number(value: float, estimate: Estimate, role: Role) -> str:
    if value in (0, 1) and estimate.low == estimate.high and role != "difference":
        return f"{100 * value:.0f}" if estimate.unit == "fraction" else f"{value:.0f}"
    if role == "difference":
        text = f"{100 * value:+.1f}" if estimate.unit == "fraction" else _significant(value, sign="+")
    elif estimate.unit == "fraction":
        text = f"{100 * value:.{max(1, _decimals(estimate.value) - 2)}f}"
    elif estimate.unit == "sites":
        text = f"{value:+.0f}"
    elif estimate.unit in ("CKA", "cosine", "similarity", "correlation", "R²"):
        text = f"{value:.{max(3, _decimals(estimate.value))}f}"
    else:
        text = _significant(value)
    return text.replace("-", _MINUS)


def _decimals(value: float) -> int:
    """Return the decimals that show two digits of the distance to the nearer of 0 and 1, at most 8."""
    distance = min(abs(value), abs(1 - value))
    return 0 if distance == 0 else min(8, math.ceil(-math.log10(distance)) + 1)


def _significant(value: float, sign: str = "") -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e-3:
        return f"{value:{sign}#.3g}".rstrip(".")
    mantissa, exponent = f"{value:{sign}.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"
