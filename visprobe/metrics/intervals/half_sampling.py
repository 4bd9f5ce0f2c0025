"""Half-sampling intervals for nearest-neighbour statistics, on which the jackknife is much too wide.

The two halves of a split share no image, so half their difference has the variance of the statistic on all images,
if that falls with 1 / n. Leaving out one image instead changes every neighbour list that it was in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.intervals.estimate import Estimate, Scale
from visprobe.metrics.intervals.student import Student


@dataclass(frozen=True)
class Halved:
    """Statistic on all n images, and half its difference between the two halves of each split, shape (splits,)."""

    value: float
    differences: Array
    n: int

    @property
    def student(self) -> Student:
        """Value with its standard error."""
        error, splits = math.sqrt(float(np.mean(self.differences**2))), len(self.differences)
        return Student(self.value, error, splits, self.n, "half-sampling")

    def estimate(self, scale: Scale, level: float = 0.95) -> Estimate:
        """Return the value with its interval, cut at the ends of the scale."""
        return self.student.estimate(scale, level)

    def __sub__(self, other: Halved) -> Halved:
        if self.n != other.n or len(self.differences) != len(other.differences):
            raise ValueError(
                f"{self.n} images in {len(self.differences)} splits against {other.n} in {len(other.differences)}"
            )
        return Halved(self.value - other.value, self.differences - other.differences, self.n)


def half_splits(statistic: Callable[[Indices], float], n: int, splits: int = 40, seed: int = 0) -> Halved:
    """Compute a statistic on all images and on both halves of random splits.

    Args:
        statistic: Value on a subset of the images, given as sorted indices; called 2 splits + 1 times.
        n: Number of images, at least 4; of an odd number one is left out of each split.
        splits: Number of splits.
        seed: Seed of the splits: equal seeds give the same ones, so that two statistics may be subtracted.

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
