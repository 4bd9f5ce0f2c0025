"""Representational similarity analysis: correlation of two representations' distances between images."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import centred, finite, same_images, unit_rows

Distance = Literal["correlation", "cosine", "euclidean"]
Comparison = Literal["spearman", "pearson"]


def rdm(features: ArrayLike, distance: Distance = "correlation") -> Array:
    """Compute the representational dissimilarity matrix (RDM).

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 3.
        distance: "correlation" and "cosine" are 1 - similarity of rows, in [0, 2]; "euclidean" is in the unit of the
            features up to a common factor, to which the comparisons are blind.

    Returns:
        Symmetric float64 of shape (n, n) with a zero diagonal.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, a row has no direction, or for another distance.

    Source:
        Kriegeskorte, Mur & Bandettini 2008.
    """
    if distance not in get_args(Distance):
        raise ValueError(f"distance must be one of {', '.join(get_args(Distance))}, got {distance}")
    if distance == "euclidean":
        rows = centred(features, 3, "RSA")
        norms = np.einsum("ij,ij->i", rows, rows)
        out = np.sqrt(np.maximum(norms[:, None] + norms - 2 * rows @ rows.T, 0.0))
    else:
        array = finite(features, 3, "RSA")
        rows = unit_rows(array - array.mean(1, keepdims=True) if distance == "correlation" else array, 3, "RSA")
        out = 1 - rows @ rows.T
    np.fill_diagonal(out, 0.0)
    return np.asarray(out)


def rsa(x: ArrayLike, y: ArrayLike, distance: Distance = "correlation", comparison: Comparison = "spearman") -> float:
    """Compute the correlation of two RDMs over all pairs of images.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 3.
        y: Shape (n, e), the same images in the same order.
        distance: Distance between rows, as for `rdm`.
        comparison: "spearman" (ranks, ties averaged) or "pearson".

    Returns:
        A value in [-1, 1], about 0 for unrelated representations. Pairs are not independent: an interval must come
        from leaving out images, never from a test over pairs.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or all pairs of a side are equally far apart.

    Source:
        Kriegeskorte, Mur & Bandettini 2008; Schuett et al. 2023.
    """
    if comparison not in get_args(Comparison):
        raise ValueError(f"comparison must be one of {', '.join(get_args(Comparison))}, got {comparison}")
    same_images(np.asarray(x), np.asarray(y))
    a, b = (_centred_pairs(side, distance, comparison) for side in (x, y))
    _has_spread(float(a @ a), float(b @ b))
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def replicate_rsa(x: ArrayLike, y: ArrayLike, distance: Distance = "correlation") -> Replicated:
    """Compute the Pearson correlation of two RDMs, also without each image.

    The sums over pairs without an image are the sums over all pairs less its row of the RDM. Ranks would change
    in every row: for Spearman use `replicate_by_groups`.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 4.
        y: Shape (n, e), the same images in the same order.
        distance: Distance between rows, as for `rdm`.

    Returns:
        Values in [-1, 1].

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or all pairs of a side are equally far apart.
    """
    a, b = rdm(x, distance), rdm(y, distance)
    same_images(a, b)
    n = len(a)
    if n < 4:
        raise ValueError(f"leaving one image out of RSA needs n >= 4 images, got {n}")
    for one in (a, b):
        one -= one.sum() / (n * (n - 1))  # less the mean over pairs: sums of squares then lose no digits
        np.fill_diagonal(one, 0.0)
    rows = np.stack([a.sum(0), b.sum(0), *(np.einsum("ij,ij->i", p, q) for p, q in ((a, b), (a, a), (b, b)))])
    # Every pair stands in two rows.
    totals = rows.sum(1) / 2
    whole = _pearson(totals[:, None], n * (n - 1) // 2)
    return Replicated(float(whole[0]), _pearson(totals[:, None] - rows, (n - 1) * (n - 2) // 2))


def _centred_pairs(features: ArrayLike, distance: Distance, comparison: Comparison) -> Array:
    """Return the distances of all pairs, or their ranks, less their mean; shape (n (n - 1) / 2,)."""
    whole = rdm(features, distance)
    pairs = whole[np.triu(np.ones(whole.shape, dtype=bool), 1)]
    del whole  # 0.8 GB for 10,000 images, before ranking takes as much again
    if comparison == "spearman":
        pairs = rankdata(pairs)
    pairs -= pairs.mean()
    return np.asarray(pairs, dtype=np.float64)


def _pearson(sums: Array, pairs: int) -> Array:
    a, b, ab, aa, bb = sums
    spread_a, spread_b = aa - a * a / pairs, bb - b * b / pairs
    _has_spread(float(spread_a.min()), float(spread_b.min()))
    return np.asarray((ab - a * b / pairs) / np.sqrt(spread_a * spread_b))


def _has_spread(*squares: float) -> None:
    if min(squares) <= 0:
        raise ValueError("all pairs of images are equally far apart: RSA is not defined")
