"""Intrinsic dimension of a representation from the two nearest neighbours of each image."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.classifiers.neighbours import first_within, list_length
from visprobe.metrics.intervals.half_sampling import Halved, half_interval, half_splits
from visprobe.metrics.intervals.jackknife import Indices
from visprobe.metrics.matrices import Array, finite

_CHUNK = 256  # images whose distances, and whose neighbours' features, are held at once


class Dimension(NamedTuple):
    """A dimension with its interval, the number of distinct images used and of duplicates left out."""

    value: float
    low: float
    high: float
    n: int
    duplicates: int


def two_nn(features: ArrayLike, level: float = 0.95) -> Dimension:
    """TwoNN: dimension from the ratios mu of each image's distance to its second and first neighbour.

    Images with equal features are counted once.

    Args:
        features: Any real dtype, shape (n, d), one row per image, six distinct rows or more.
        level: Nominal coverage.

    Returns:
        (N - 1) / sum log mu, the unbiased form of the estimate, > 0, with an interval from half-samples: the gamma law
        that holds for independent ratios covers too little, as neighbours share them. The interval is about what n
        images of this kind give; the value depends on the scale that n images resolve: see `two_nn_by_size`.

    Raises:
        ValueError: As `visprobe.metrics.matrices.finite`, or if fewer than six rows differ or all ratios are 1.

    Source:
        Facco et al. 2017 (1803.06992), eqs. 4-5, by maximum likelihood as in Denti et al. 2022 (2104.13832).
    """
    halved, duplicates = halve_two_nn(features)
    interval = half_interval(halved, level, limit=math.inf)
    return Dimension(interval.value, max(interval.low, 0.0), interval.high, halved.n, duplicates)


def halve_two_nn(features: ArrayLike, splits: int = 40, seed: int = 0) -> tuple[Halved, int]:
    """TwoNN with its half-samples, for paired differences, and the number of duplicates left out.

    Args:
        features: As `two_nn`.
        splits: Of the images into halves.
        seed: Of the splits: with equal seeds and no duplicates they are the same for every representation.

    Raises:
        ValueError: As `two_nn`.
    """
    array = finite(features, 3, "TwoNN")
    # In the order of the images: halves of two representations then hold the same ones.
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

    return half_splits(dimension, n, splits, seed), len(array) - n


def two_nn_by_size(features: ArrayLike, sizes: list[int], seed: int = 0) -> list[Dimension]:
    """TwoNN on nested random subsets: the scale at which the dimension is stable is the one to report.

    Args:
        features: As `two_nn`.
        sizes: Numbers of images, each at most n.
        seed: Of the order in which images are drawn.

    Raises:
        ValueError: If a size is larger than n, or as `two_nn`.
    """
    array = finite(features, 3, "TwoNN")
    if max(sizes) > len(array):
        raise ValueError(f"subsets of {max(sizes)} cannot be drawn from {len(array)} images")
    order = np.random.default_rng(seed).permutation(len(array))
    return [two_nn(array[order[:size]]) for size in sizes]


def _nearest_by_distance(rows: Array, k: int) -> tuple[Indices, Array]:
    """The k nearest other rows of each row and their Euclidean distances up to a common factor, nearest first."""
    moved = rows - rows.mean(0)
    moved /= np.abs(moved).max()
    norms = np.einsum("ij,ij->i", moved, moved)
    lists, distances = np.empty((len(rows), k), dtype=np.intp), np.empty((len(rows), k))
    for start in range(0, len(rows), _CHUNK):
        part = moved[start : start + _CHUNK]
        squares = norms - 2 * part @ moved.T
        squares[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf
        near = np.argpartition(squares, k - 1, axis=1)[:, :k]
        # Squares as differences of large sums lose half the digits; the few that count are taken exactly.
        exact = np.linalg.norm(moved[near] - part[:, None], axis=2)
        order = np.argsort(exact, axis=1)
        lists[start : start + _CHUNK] = np.take_along_axis(near, order, 1)
        distances[start : start + _CHUNK] = np.take_along_axis(exact, order, 1)
    return lists, distances
