"""Intervals from random halves, for statistics of nearest neighbours, on which the jackknife is much too wide.

The two halves of a split share no image, so half their difference has the variance of the statistic on all images,
if that falls with 1 / n. Leaving out one image instead counts every neighbour list that it was in as news.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from visprobe.metrics.intervals.jackknife import Indices, Interval
from visprobe.metrics.matrices import Array


class Halved(NamedTuple):
    """A statistic on all n images, and half its difference between the two halves of each split, shape (splits,)."""

    value: float
    differences: Array
    n: int


def half_splits(statistic: Callable[[Indices], float], n: int, splits: int = 40, seed: int = 0) -> Halved:
    """A statistic on all images and on both halves of random splits.

    Args:
        statistic: Value on a subset of the images, given as sorted indices; called 2 splits + 1 times.
        n: Number of images, at least 4; of an odd number one is left out of each split.
        splits: Number of splits.
        seed: Of the splits: equal seeds give the same ones, so that two statistics may be subtracted.

    Raises:
        ValueError: If n < 4 or splits < 2.

    Source:
        McCarthy 1969 (half-samples); Politis, Romano & Wolf 1999, section 2.2, for why subsets without replacement.
    """
    if n < 4 or splits < 2:
        raise ValueError(f"half-sampling needs four images and two splits or more, got {n} and {splits}")
    rng, half, differences = np.random.default_rng(seed), n // 2, []
    for _ in range(splits):
        order = rng.permutation(n)
        first, second = np.sort(order[:half]), np.sort(order[half : 2 * half])
        differences.append((statistic(first) - statistic(second)) / 2)
    return Halved(float(statistic(np.arange(n))), np.array(differences, dtype=np.float64), n)


def subtract_halved(a: Halved, b: Halved) -> Halved:
    """Paired difference of two statistics over the same images and splits.

    Raises:
        ValueError: If the numbers of images or splits differ.
    """
    if a.n != b.n or len(a.differences) != len(b.differences):
        raise ValueError(f"{a.n} images in {len(a.differences)} splits against {b.n} in {len(b.differences)}")
    return Halved(a.value - b.value, a.differences - b.differences, a.n)


def half_interval(statistic: Halved, level: float = 0.95, limit: float = 1.0) -> Interval:
    """Interval: value -/+ t(splits) standard errors.

    Args:
        statistic: From `half_splits` or `subtract_halved`.
        level: Nominal coverage.
        limit: As `visprobe.metrics.intervals.jackknife.jackknife`.
    """
    error = math.sqrt(float(np.mean(statistic.differences**2)))
    half = float(stdtrit(len(statistic.differences), (1 + level) / 2)) * error
    low, high = statistic.value - half, statistic.value + half
    return Interval(statistic.value, max(low, -limit), min(high, limit), error, statistic.n)
