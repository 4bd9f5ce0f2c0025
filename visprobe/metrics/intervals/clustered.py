"""Means of units that come in clusters, such as several questions about one image."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit


class ClusteredMean(NamedTuple):
    """A mean with its interval, the number of units and of clusters."""

    value: float
    low: float
    high: float
    n: int
    clusters: int


def clustered_mean(
    values: NDArray[np.float64], clusters: NDArray[np.int64], level: float = 0.95, bounds: tuple[float, float] = (0, 1)
) -> ClusteredMean:
    """Mean with an interval that holds when units of one cluster go together.

    Args:
        values: float64 of shape (n,): 1 for right and 0 for wrong, or the difference of two of these.
        clusters: int64 of shape (n,): which cluster each unit belongs to; two clusters or more.
        level: Coverage of the interval.
        bounds: What a mean can be; the interval is cut there.

    Returns:
        The mean and a Student t interval with (clusters - 1) degrees of freedom.

    Raises:
        ValueError: If there are fewer than two clusters.

    Source: Miller (2024), "Adding Error Bars to Evals", arXiv 2411.00640, equation 4, with the usual factor
        C / (C - 1) for C clusters (Cameron and Miller 2015).
    """
    _, index = np.unique(clusters, return_inverse=True)
    count, n = int(index.max(initial=-1)) + 1, len(values)
    if count < 2:
        raise ValueError(f"an interval over clusters needs two clusters or more, got {count}")
    mean = float(np.mean(values))
    sums = np.bincount(index, weights=np.asarray(values, np.float64) - mean)
    error = math.sqrt(float(sums @ sums) * count / (count - 1)) / n
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * error
    return ClusteredMean(mean, max(bounds[0], mean - half), min(bounds[1], mean + half), n, count)
