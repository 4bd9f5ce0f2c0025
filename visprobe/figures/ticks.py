"""Ticks of small panels, which have room for one number on each side of 0."""

from __future__ import annotations

import math

_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
_INSIDE = 0.9  # of the axis: a number at its very end would stick out


def round_below(reach: float) -> float:
    """The largest round number that is clearly below `reach` (positive)."""
    inside = _INSIDE * reach
    power = 10.0 ** math.floor(math.log10(inside))
    return max(step for step in _STEPS if step * power <= inside * (1 + 1e-9)) * power
