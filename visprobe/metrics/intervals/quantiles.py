"""Quantiles with distribution-free intervals from order statistics; rank correlation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from visprobe.metrics.intervals.estimate import Estimate

_LEVEL = 0.95


def quantile(values: ArrayLike, q: float, unit: str) -> Estimate | None:
    """Compute a quantile of independent values and its interval from order statistics.

    Args:
        values: Any real dtype, shape (n,).
        q: Level of the quantile, strictly between 0 and 1.
        unit: Unit of the values.

    Returns:
        The quantile (numpy's default kind) and its narrowest equal-tailed interval of 95 % or more; None where n is too
        small for any pair of order statistics to cover it: below 72 values for q = 0.05, 6 for the median.

    Raises:
        ValueError: If `values` is not one row of finite numbers or `q` is out of range.

    Source:
        David & Nagaraja 2003, section 7.1.
    """
    array = np.sort(np.asarray(values, dtype=np.float64))
    if array.ndim != 1 or not np.isfinite(array).all() or not 0 < q < 1:
        raise ValueError(f"a quantile needs finite numbers in one row and 0 < q < 1, got {array.shape} and {q}")
    n, tail = len(array), (1 - _LEVEL) / 2
    # With B binomial (n, q): P(quantile < x_(r)) = P(B < r), P(quantile > x_(s)) = P(B >= s), ranks from 1.
    low = int(stats.binom.ppf(tail, n, q))
    while low > 0 and stats.binom.cdf(low - 1, n, q) > tail:
        low -= 1
    high = int(stats.binom.isf(tail, n, q)) + 1
    if low < 1 or high > n:
        return None
    ends = float(array[low - 1]), float(array[high - 1])
    return Estimate(float(np.quantile(array, q)), *ends, n, unit, "order statistics, at least 95 %")


def spearman(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Compute Spearman's rank correlation with its interval on the Fisher scale.

    Args:
        x: Any real dtype, shape (n,), n >= 4, not all equal.
        y: Shape (n,), not all equal.

    Returns:
        The correlation and its 95 % interval, in [-1, 1].

    Raises:
        ValueError: If the shapes do not fit or one side does not vary.

    Source:
        Bonett & Wright 2000: variance (1 + r^2 / 2) / (n - 3) of the Fisher transform.
    """
    a, b = (np.asarray(side, dtype=np.float64) for side in (x, y))
    if a.ndim != 1 or a.shape != b.shape or len(a) < 4:
        raise ValueError(f"a rank correlation needs two rows of 4 numbers or more, got {a.shape} and {b.shape}")
    ranks = [stats.rankdata(side) for side in (a, b)]
    if min(np.ptp(side) for side in ranks) == 0:
        raise ValueError("one side does not vary: it has no ranks")
    value = float(np.corrcoef(*ranks)[0, 1])
    value = min(1.0, max(-1.0, value))
    low = high = value
    if abs(value) <= 1 - 1e-12:
        half = float(stats.norm.ppf((1 + _LEVEL) / 2)) * math.sqrt((1 + value**2 / 2) / (len(a) - 3))
        low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
    return Estimate(value, low, high, len(a), "correlation", "Fisher scale 95 % (Bonett & Wright)")
