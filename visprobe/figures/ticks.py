"""Ticks of logarithmic axes with a place for zero, and of small panels with room for one number a side."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axes import Axes

from visprobe.figures.style import MUTED

_EMPTY = (1e-4, 1.0)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
_INSIDE = 0.9  # share of the axis: a number at its very end would stick out


def log_y_axis(axes: Axes, values: Iterable[float]) -> float:
    """Make the y axis of `axes` logarithmic around `values` and return the height at which zeros are drawn.

    If a value is zero (or below), the axis gets a tick "0" under its lowest decade, cut off by a thin line.

    Args:
        axes: The axes to set up.
        values: All values that will be drawn.

    Returns:
        The y position that stands for zero: the lower end of the axis, or the place of its "0" tick.
    """
    values = list(values)
    positive = [v for v in values if v > 0] or list(_EMPTY)
    low, high = min(positive) / 1.6, max(positive) * 1.6
    has_zero = len(positive) < len(values)
    step = (high / low) ** 0.09
    zero = low / step**1.5 if has_zero else low
    ticks = _ticks(low, high)
    axes.set_yscale("log")
    axes.set_ylim(zero / step if has_zero else low, high)
    axes.minorticks_off()
    axes.set_yticks([zero, *ticks] if has_zero else ticks, labels=["0"] * has_zero + [_label(t) for t in ticks])
    if has_zero:
        axes.axhline(low, color=MUTED, linewidth=0.4, linestyle=(0, (1, 2)))
    return zero


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Return ticks between `low` and `high` on a logarithmic scale, and their labels."""
    ticks = _ticks(low, high)
    return ticks, [_label(tick) for tick in ticks]


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = math.log10(high / low) < 2.2
    steps = (1, 2, 5) if few else (1,)
    return [float(f"{m}e{d}") for d in decades for m in steps if low <= m * 10.0**d <= high]


def _label(tick: float) -> str:
    if tick >= 1e-3:
        return f"{tick:g}"
    mantissa, exponent = f"{tick:.0e}".split("e")
    power = f"10{exponent.translate(_SUPERSCRIPT).replace('⁻⁰', '⁻')}"
    return power if mantissa == "1" else f"{mantissa}·{power}"


def round_below(reach: float) -> float:
    """Return the largest round number that is clearly below `reach` (positive)."""
    inside = _INSIDE * reach
    power = 10.0 ** math.floor(math.log10(inside))
    return max(step for step in _STEPS if step * power <= inside * (1 + 1e-9)) * power
