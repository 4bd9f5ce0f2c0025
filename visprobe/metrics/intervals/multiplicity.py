"""p-values that stay honest over many sites: Westfall-Young max-T on permutations, and Holm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.intervals.jackknife import Indices
from visprobe.metrics.matrices import Array, finite


class MaxT(NamedTuple):
    """Tests over sites that share one error rate.

    Attributes:
        p: Adjusted p-values, shape (sites,), in [1 / (draws + 1), 1].
        threshold: What a value must exceed at each site to be more than chance at `level`, shape (sites,).
    """

    p: Array
    threshold: Array


def permutation_null(statistic: Callable[[Indices], ArrayLike], n: int, draws: int = 999, seed: int = 0) -> Array:
    """Values at all sites under random pairings of the images of one side with those of the other.

    Args:
        statistic: Values at all sites, shape (sites,), when row i of one side is paired with row order[i] of the
            other: one order for all sites, so that what sites have in common is kept.
        n: Number of images.
        draws: Number of random orders.
        seed: Of the orders.

    Returns:
        float64 of shape (draws, sites).

    Raises:
        ValueError: If the statistic is not one finite number per site.

    Source:
        Groeger, Wen & Brbic 2026 (2602.14486): permute once for all layers. Against this null two checkpoints of one
        base always differ from chance; it is for representations that could be unrelated.
    """
    rng = np.random.default_rng(seed)
    return finite([np.asarray(statistic(rng.permutation(n))) for _ in range(draws)], 1, "a permutation null")


def max_t(observed: ArrayLike, null: ArrayLike, level: float = 0.95) -> MaxT:
    """Adjusted one-sided p-values by the permutation law of the largest value over sites.

    Every site is standardised by the mean and spread of its draws and observed value together, so that a site of
    wide null does not set the bar for the others.

    Args:
        observed: Values, larger for more similar, shape (sites,).
        null: Draws under the null, shape (draws, sites), from `permutation_null`.
        level: One minus the error rate of the threshold.

    Returns:
        p-values that reject a true null at any site with probability at most alpha when p <= alpha rejects; step-down.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Source:
        Westfall & Young 1993, algorithm 4.1 (step-down max-T); (1 + count) / (1 + draws) of Phipson & Smyth 2010.
    """
    draws, values = finite(null, 1, "max-T"), finite(np.atleast_2d(observed), 1, "max-T")
    if values.shape != (1, draws.shape[1]):
        raise ValueError(f"{values.size} observed values against a null of {draws.shape[1]} sites")
    every = np.concatenate([values, draws])
    centre, spread = every.mean(0), every.std(0)
    scores = (every - centre) / np.where(spread > 0, spread, 1.0)
    order = np.argsort(-scores[0])
    # Column j: the largest over the sites ranked j and below.
    largest = np.maximum.accumulate(scores[:, order][:, ::-1], axis=1)[:, ::-1]
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate((largest >= scores[0, order] - 1e-12).mean(0))  # row 0 is the "1 +"
    rank = min(math.ceil(level * len(every)), len(every)) - 1
    threshold = centre + spread * np.sort(scores.max(1))[rank]
    return MaxT(p, threshold)


def holm(p: ArrayLike) -> Array:
    """Adjusted p-values that hold under any dependence.

    Args:
        p: p-values, shape (tests,).

    Returns:
        float64 of shape (tests,), in [0, 1], at least the p-values given.

    Raises:
        ValueError: If one is not within [0, 1].

    Source:
        Holm 1979.
    """
    values = np.atleast_1d(np.asarray(p, dtype=np.float64))
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values must be in [0, 1], in one row")
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
