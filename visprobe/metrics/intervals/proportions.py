"""Intervals of proportions, alone and paired, and the exact paired test."""

from __future__ import annotations

import math
from statistics import NormalDist

from scipy.special import bdtr

from visprobe.metrics.arrays import Bools
from visprobe.metrics.intervals.estimate import Estimate


def z_quantile(level: float) -> float:
    """Return the two-sided standard normal quantile: 1.96 for `level` 0.95.

    Raises:
        ValueError: If `level` is not strictly between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of a proportion, without continuity correction.

    Args:
        successes: Number of successes.
        n: Number of independent units, at least 1.
        level: Nominal coverage.

    Returns:
        (low, high), both in [0, 1]; they enclose `successes / n` also at 0 and at n.

    Raises:
        ValueError: If `n < 1` or `successes` is not within 0..n.

    Source:
        Wilson 1927; method 3 of Newcombe, Statistics in Medicine 17:857 (1998).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z = z_quantile(level)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding would leave 1e-17 where the formula gives exactly 0 or 1.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def proportion(right: Bools, unit: str = "fraction") -> Estimate:
    """Return the share of True with its Wilson interval.

    Args:
        right: Bool of shape (n,), n >= 1.
        unit: Unit of the estimate.
    """
    hits, n = int(right.sum()), len(right)
    return Estimate(hits / n, *wilson(hits, n), n, unit, "Wilson 95 %")


def paired_difference(a: Bools, b: Bools) -> tuple[Estimate, float]:
    """Compute the share right in `a` minus that in `b` over the same images, and McNemar's p.

    Args:
        a: Bool of shape (n,).
        b: Bool of shape (n,), the same images in the same order.

    Returns:
        The difference with its Newcombe interval, in [-1, 1], and the exact two-sided p.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return newcombe_paired(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum())), mcnemar_exact(only_a, only_b)


def newcombe_paired(both: int, only_a: int, only_b: int, neither: int) -> Estimate:
    """Compute the difference `share(a) - share(b)` of two systems tried on the same units.

    Args:
        both: Units on which both succeed.
        only_a: Units on which only a succeeds.
        only_b: Units on which only b succeeds.
        neither: Units on which both fail.

    Returns:
        The difference and its 95 % interval, in [-1, 1].

    Raises:
        ValueError: If a count is negative or all are zero.

    Source:
        Newcombe, Statistics in Medicine 17:2635 (1998), method 10: Wilson intervals joined by "square and
        add", with the correlation of the pair shrunk towards 0 by n/2 where it is positive.
    """
    if min(both, only_a, only_b, neither) < 0:
        raise ValueError(f"counts must not be negative, got {(both, only_a, only_b, neither)}")
    n = both + only_a + only_b + neither
    low_a, high_a = wilson(both + only_a, n)
    low_b, high_b = wilson(both + only_b, n)
    share_a, share_b = (both + only_a) / n, (both + only_b) / n
    phi = _shrunk_correlation(both, only_a, only_b, neither)
    difference = (only_a - only_b) / n
    down = _add_in_quadrature(share_a - low_a, high_b - share_b, phi)
    up = _add_in_quadrature(high_a - share_a, share_b - low_b, phi)
    return Estimate(difference, difference - down, difference + up, n, "fraction", "Newcombe paired 95 %")


def _shrunk_correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product: float = both * neither - only_a * only_b
    if product > 0:
        product = max(product - (both + only_a + only_b + neither) / 2, 0.0)
    return product / math.sqrt(margins)


def _add_in_quadrature(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(first**2 - 2 * phi * first * second + second**2, 0.0))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Compute the two-sided exact p-value that two systems are right equally often.

    Args:
        only_a: Units on which only a succeeds.
        only_b: Units on which only b succeeds.

    Returns:
        p in (0, 1]; 1.0 when there is no discordant unit.

    Raises:
        ValueError: If a count is negative.

    Source:
        McNemar 1947, with the exact binomial tail in place of chi-square.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"counts must not be negative, got {only_a} and {only_b}")
    discordant = only_a + only_b
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), discordant, 0.5)))
