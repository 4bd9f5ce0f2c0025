"""Intrinsic dimension of a representation from the two nearest neighbours of each image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.classifiers.neighbours import first_within, list_length
from visprobe.metrics.intervals.half_sampling import Halved, half_splits
from visprobe.metrics.matrices import finite

_CHUNK = 256  # images whose distances, and whose neighbours' features, are held at once


def two_nn(features: ArrayLike, splits: int = 40, seed: int = 0) -> Halved:
    """Estimate the dimension (TwoNN) from the ratios mu of each image's distances to its two neighbours.

    Images with equal features are counted once: `n` of what is returned may be smaller than that of the features.

    Args:
        features: Any real dtype, shape (n, d), one row per image, six distinct rows or more.
        splits: Number of random halvings of the images, for the interval.
        seed: Seed of the halvings: with equal seeds and no duplicates they are the same for every representation.

    Returns:
        (N - 1) / sum log mu, the unbiased form of the estimate, > 0, with half-samples: the gamma law that holds for
        independent ratios covers too little, as neighbours share them. The interval is about what n images of this
        kind give; the value depends on the scale that n images resolve.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, fewer than six rows differ, or all ratios are 1.

    Source:
        Facco et al. 2017 (1803.06992), eqs. 4-5, by maximum likelihood as in Denti et al. 2022 (2104.13832).
    """
    array = finite(features, 3, "TwoNN")
    # In the order of the images, so that halves of two representations hold the same ones.
    distinct = array[np.sort(np.unique(array, axis=0, return_index=True)[1])]
    n = len(distinct)
    if n < 6:
        raise ValueError(f"TwoNN with an interval needs six distinct images, got {n}")
    lists, distances = _nearest_by_distance(distinct, list_length(2, n))

    def dimension(images: Indices) -> float:
        pairs = np.take_along_axis(distances[images], first_within(lists, images, 2), 1)
        total = float(np.log(pairs[:, 1] / pairs[:, 0]).sum())
        if total <= 0:
            raise ValueError("every image has its two neighbours equally far away: TwoNN is not defined")
        return (len(images) - 1) / total

    return half_splits(dimension, n, splits, seed)


def _nearest_by_distance(rows: Array, k: int) -> tuple[Indices, Array]:
    """Return the k nearest other rows of each row and their distances up to a common factor, nearest first."""
    moved = rows - rows.mean(0)
    moved /= np.abs(moved).max()
    norms = np.einsum("ij,ij->i", moved, moved)
    lists, distances = np.empty((len(rows), k), dtype=np.intp), np.empty((len(rows), k))
    for start in range(0, len(rows), _CHUNK):
        part = moved[start : start + _CHUNK]
        squares = norms - 2 * part @ moved.T
        squares[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        near = np.argpartition(squares, k - 1, axis=1)[:, :k]
        # Differences of large squares lose half the digits; the few distances that count are computed directly.
        exact = np.linalg.norm(moved[near] - part[:, None], axis=2)
        order = np.argsort(exact, axis=1)
        lists[start : start + _CHUNK] = np.take_along_axis(near, order, 1)
        distances[start : start + _CHUNK] = np.take_along_axis(exact, order, 1)
    return lists, distances
