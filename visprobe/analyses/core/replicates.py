"""A statistic with its replicates, whichever way they were made, as an estimate and as a paired difference."""

from __future__ import annotations

import math
from typing import NamedTuple

from visprobe.metrics.intervals.half_sampling import Halved, half_interval, subtract_halved
from visprobe.metrics.intervals.jackknife import Replicated, jackknife, subtract
from visprobe.results.result import Estimate

Replicates = Replicated | Halved


class Scale(NamedTuple):
    """The unit of a measure and the values that it can take."""

    unit: str
    low: float = -math.inf
    high: float = math.inf

    @property
    def of_differences(self) -> Scale:
        """The scale of a difference of two values."""
        reach = self.high - self.low
        return Scale(self.unit, -reach, reach)


def estimate(found: Replicates, n: int, scale: Scale) -> Estimate:
    """The value with its 95 % interval, cut at the ends of the scale.

    Args:
        found: Value and replicates.
        n: Number of images that it rests on.
        scale: What the value can be.
    """
    if isinstance(found, Halved):
        interval, method = half_interval(found, limit=math.inf), "half-sampling 95 %"
    else:
        left_out = "one" if len(found.without) == n else "group"
        interval, method = jackknife(found, limit=math.inf), f"delete-{left_out} jackknife 95 %"
    low, high = max(interval.low, scale.low), min(interval.high, scale.high)
    return Estimate(interval.value, low, high, n, scale.unit, method)


def paired(a: Replicates, b: Replicates) -> Replicates:
    """The difference a - b over the same images.

    Raises:
        ValueError: If they do not rest on equally many images, or their replicates were made in two ways.
    """
    if isinstance(a, Halved) and isinstance(b, Halved):
        return subtract_halved(a, b)
    if isinstance(a, Replicated) and isinstance(b, Replicated) and len(a.without) == len(b.without):
        return subtract(a, b)
    raise ValueError("two statistics with other replicates cannot be paired")
