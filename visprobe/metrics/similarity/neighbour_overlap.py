"""Mutual kNN and CKNNA: agreement of two representations on which images are near each other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.classifiers.neighbours import first_within, list_length, nearest
from visprobe.metrics.intervals.half_sampling import Halved, half_splits
from visprobe.metrics.matrices import same_images, unit_rows


def neighbours_in_half(k: int) -> int:
    """Return the number of neighbours that count in a random half of the images, where k count in all.

    Among half as many images k neighbours reach twice as far: they are shared more often and vary less, and standard
    errors come out up to 17 % too small. k / 2 of them reach as far and are counted more coarsely: up to 60 % too
    large. Between the two intervals hold 94 % or more (measured: the cards of align and similarity in `analyses/`).
    """
    return round(k / 2**0.5)


def mutual_knn(x: ArrayLike, y: ArrayLike, k: int = 10, splits: int = 40, seed: int = 0) -> Halved:
    """Compute the mean share of the k nearest neighbours (cosine) that two representations share.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n // 2 > k.
        y: Shape (n, e), the same images in the same order.
        k: Number of neighbours.
        splits: Number of random halvings, for the interval; in a half `neighbours_in_half(k)` count.
        seed: Seed of the halvings.

    Returns:
        A value in [0, 1]; unrelated representations give k / (n - 1).

    Raises:
        ValueError: If a shape does not fit, a value is not finite, a row is zero, or there are too few images.

    Source:
        Huh et al. 2024 (2405.07987), eq. 11.
    """
    n = len(np.asarray(x))
    if n // 2 <= k:
        raise ValueError(f"half of {n} images is too few for {k} neighbours")
    left, right = _lists(x, y, list_length(k, n))

    def share(images: Indices) -> float:
        counted = k if len(images) == n else neighbours_in_half(k)
        near = [np.take_along_axis(one[images], first_within(one, images, counted), 1) for one in (left, right)]
        return float(_is_in(near[0], near[1]).mean())

    return half_splits(share, n, splits, seed)


def cknna(x: ArrayLike, y: ArrayLike, k: int = 10) -> float:
    """Compute centred kernel alignment over mutual nearest neighbours only (CKNNA).

    With a_ij = x_i.x_j - mean_l x_i.x_l on rows of length one, b_ij likewise for y, and the sum over those j that
    are among the k nearest of i on both sides: sum a_ij b_ij / sqrt(sum_x a_ij^2 sum_y b_ij^2), where sum_x runs
    over the k nearest of i under x and sum_y over those under y.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n > k.
        y: Shape (n, e), the same images in the same order.
        k: Number of neighbours; with k = n - 1 every pair counts.

    Returns:
        A value in [-1, 1]; 1 for representations that differ by a rotation and lengths of rows.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, a row is zero, or all images have one direction.

    Source:
        Huh et al. 2024 (2405.07987), appendix A.

    Differs from source:
        The published code puts the masked kernels through the unbiased HSIC, in which a neighbour that is not
        mutual drops out of the trace; here the sum is the printed one.
    """
    left, right = _lists(x, y, k)
    a, b = (_centred_products(unit_rows(f, k + 1, "CKNNA"), ids) for f, ids in ((x, left), (y, right)))
    own = math.sqrt(float((a * a).sum() * (b * b).sum()))
    if own <= 1e-12 * k * len(left):
        raise ValueError("all images have features of one direction: CKNNA is not defined")
    # (n, k, k): which neighbour of the first list is which of the second.
    shared = left[:, :, None] == right[:, None, :]
    return float(np.einsum("ij,ijk,ik->", a, shared, b)) / own


def _centred_products(units: Array, ids: Indices) -> Array:
    products = np.stack([np.einsum("ij,ij->i", units, units[column]) for column in ids.T], axis=1)
    centred: Array = products - (units @ units.mean(0))[:, None]
    return centred


def _lists(x: ArrayLike, y: ArrayLike, k: int) -> tuple[Indices, Indices]:
    same_images(np.asarray(x), np.asarray(y))
    return nearest(x, k), nearest(y, k)


def _is_in(ids: Indices, lists: Indices) -> NDArray[np.bool_]:
    """Return, for each entry of row i of `ids`, if it is among row i of `lists`."""
    found: NDArray[np.bool_] = (ids[:, :, None] == lists[:, None, :]).any(2)
    return found
