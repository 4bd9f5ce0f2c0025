"""Debiased linear CKA between two representations of the same images, with a delete-one jackknife interval.

Everything rests on the zero-diagonal Gram matrices K and L of the column-centred features, of which only four
sums are needed: T = sum_ij K_ij L_ij, S_K = sum_ij K_ij, S_L, and k.l with k_i = sum_j K_ij. Then

    HSIC = (T + S_K S_L / ((n-1)(n-2)) - 2 k.l / (n-2)) / (n (n-3)).

Each sum without image i follows from the sum with it, so the n leave-one-out values cost no more than the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.estimate import CKA, Estimate
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import centred, same_images

Sums = Array | float

# Rounding error of HSIC: features have mean squared norm 1, so HSIC is of the order of 1 / (effective dimension).
_NO_VARIANCE = 1e-12

_BLOCK = 4096  # rows that are held as float64 at a time


@dataclass(frozen=True)
class Representation:
    """Features prepared once by `represent` and compared many times.

    With many images only one block at a time is held as float64: the source array may be memory-mapped.

    Attributes:
        source: Features, shape (n, d): prepared already, or to be prepared block by block.
        mean: Column means still to be subtracted, float64 of shape (d,); None where `source` is prepared.
        scales: Divisor and factor applied after that; one number would leave float64 for tiny features.
    """

    source: NDArray[np.floating]
    mean: Array | None = None
    scales: tuple[float, float] = (1.0, 1.0)

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.source)

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield blocks of rows with their slice, column-centred over all images and scaled to mean squared norm 1."""
        for first in range(0, self.count, _BLOCK):
            rows = slice(first, min(first + _BLOCK, self.count))
            block = np.asarray(self.source[rows], np.float64)
            yield rows, block if self.mean is None else (block - self.mean) / self.scales[0] * self.scales[1]

    @cached_property
    def squared_norms(self) -> Array:
        """Squared length of each row, shape (n,)."""
        return np.concatenate([np.einsum("ij,ij->i", block, block) for _, block in self.blocks()])

    @cached_property
    def row_sums(self) -> Array:
        """Row sums of the zero-diagonal Gram matrix, shape (n,)."""
        return self.times(np.ones(self.count))

    @cached_property
    def own_hsic(self) -> Replicated:
        """HSIC of the representation with itself, also without each image."""
        return _hsic(self, self)

    def times(self, vector: Array) -> Array:
        """Multiply the zero-diagonal Gram matrix with a vector of shape (n,), without forming the matrix."""
        inner = np.sum([vector[rows] @ block for rows, block in self.blocks()], axis=0)
        products = np.concatenate([block @ inner for _, block in self.blocks()])
        found: Array = products - self.squared_norms * vector
        return found


def represent(features: ArrayLike) -> Representation:
    """Centre features over the whole set, in float64, and scale them to mean squared norm 1.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 5 (4 for HSIC, one more to leave out).

    Raises:
        ValueError: If the shape is not (n >= 5, d >= 1), a value is not finite, or all rows are equal.
    """
    array = np.asarray(features)
    if array.ndim == 2 and len(array) > _BLOCK and array.shape[1]:
        return _in_blocks(array)
    moved = centred(array, 5, "debiased CKA")
    moved *= math.sqrt(len(moved)) / np.linalg.norm(moved)
    return Representation(moved)


def _in_blocks(array: NDArray[np.floating]) -> Representation:
    """Prepare an array block by block, without a float64 copy of the whole."""
    plain = Representation(array)
    sums, largest = np.zeros(array.shape[1]), 0.0
    for _, block in plain.blocks():
        if not np.isfinite(block).all():
            raise ValueError("the features hold NaN or infinity")
        sums += block.sum(0)
        largest = max(largest, float(block.max()), -float(block.min()))
    mean = sums / len(array)
    moved = max(float(np.abs(block - mean).max()) for _, block in plain.blocks())
    if moved <= 1e-13 * largest:  # as in `centred`
        raise ValueError("all images have the same features: there is no variance to compare")
    centred_rows = Representation(array, mean, (moved, 1.0))
    square = math.fsum(float(np.vdot(block, block)) for _, block in centred_rows.blocks())
    return Representation(array, mean, (moved, math.sqrt(len(array) / square)))


def replicate_cka(x: Representation, y: Representation) -> Replicated:
    """Compute the debiased linear CKA of two representations, also without each image.

    Args:
        x: First representation, n images.
        y: Second representation of the same images in the same order; its width may differ.

    Returns:
        Values in [-1, 1]: about 0 for unrelated representations, 1 for equal ones up to rotation and scale.

    Raises:
        ValueError: If the numbers of images differ, or if all variance hangs on one image.

    Source:
        Kornblith et al. 2019 (1905.00414), eq. 3, with the unbiased HSIC of Song et al. 2012, eq. 5, as in
        Nguyen, Raghu & Kornblith 2021 (2010.15327). It equals the U-centred form of Szekely & Rizzo 2014.
    """
    same_images(x.source, y.source)
    cross, own_x, own_y = _hsic(x, y), x.own_hsic, y.own_hsic
    if min(own_x.value, own_y.value, own_x.without.min(), own_y.without.min()) <= _NO_VARIANCE:
        raise ValueError("the variance hangs on a single image: CKA is not defined without it")
    value = cross.value / math.sqrt(own_x.value * own_y.value)
    return Replicated(value, cross.without / np.sqrt(own_x.without * own_y.without))


def debiased_cka(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Compute the debiased linear CKA of two feature arrays with its jackknife interval.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 5.
        y: Shape (n, e), the same images in the same order.

    Returns:
        The value and its interval, in [-1, 1].

    Raises:
        ValueError: If shapes do not fit, a value is not finite, all rows of a side are equal, or all variance hangs on
            one image.
    """
    return replicate_cka(represent(x), represent(y)).estimate(CKA)


def _hsic(x: Representation, y: Representation) -> Replicated:
    k, m = x.row_sums, y.row_sums
    c = _couplings(x, y)
    product = float(k @ m)
    # sum_{j != i} (k_j - K_ij) (m_j - L_ij), expanded; the diagonals of K and L are zero.
    without = product - k * m - x.times(m) - y.times(k) + c
    return Replicated(
        float(hsic_from_sums(len(k), c.sum(), k.sum(), m.sum(), product)),
        hsic_from_sums(len(k) - 1, c.sum() - 2 * c, k.sum() - 2 * k, m.sum() - 2 * m, without),
    )


def hsic_from_sums(n: int, t: Sums, sum_k: Sums, sum_m: Sums, product: Sums) -> Array:
    """Compute the unbiased HSIC from sums over the zero-diagonal Gram matrices K and L.

    Args:
        n: Number of images that the sums are over.
        t: sum_ij K_ij L_ij; one number, or one for each image left out, shape (n,).
        sum_k: sum_ij K_ij, likewise.
        sum_m: sum_ij L_ij, likewise.
        product: Inner product of the row sums of K and of L, likewise.

    Source:
        Song et al. 2012, eq. 5.
    """
    return np.asarray((t + sum_k * sum_m / ((n - 1) * (n - 2)) - 2 * product / (n - 2)) / (n * (n - 3)))


def _couplings(x: Representation, y: Representation) -> Array:
    """Return c_i = sum_j K_ij L_ij of the zero-diagonal Gram matrices, by whichever form is cheaper."""
    widths = x.source.shape[1], y.source.shape[1]
    if x.count <= min(_BLOCK, *widths):
        ((_, left),), ((_, right),) = x.blocks(), y.blocks()
        products = np.einsum("ij,ij->i", left @ left.T, right @ right.T)
    else:
        # sum_j (u_i.u_j)(v_i.v_j) = u_i^T (U^T V) v_i: a d x e matrix in place of two n x n ones.
        cross = np.zeros(widths)
        for (_, left), (_, right) in zip(x.blocks(), y.blocks(), strict=True):
            cross += left.T @ right
        pairs = zip(x.blocks(), y.blocks(), strict=True)
        products = np.concatenate([np.einsum("ij,ij->i", left @ cross, right) for (_, left), (_, right) in pairs])
    found: Array = products - x.squared_norms * y.squared_norms
    return found
