"""Debiased CKA with a Gaussian kernel, which weighs near images where linear CKA weighs far ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import centred, same_images
from visprobe.metrics.similarity.cka import hsic_from_sums

_NO_VARIANCE = 1e-12  # rounding error of HSIC, for kernels with entries between 0 and 1
_CHUNK = 1024  # rows of a kernel held at once
_MEDIAN_OVER = 4096  # images whose distances the median is taken over


def rbf_kernel(x: Array, rows: slice, bandwidth: float) -> Array:
    """Compute rows of the kernel exp(-|x_i - x_j|^2 / (2 bandwidth^2)), float64 of shape (rows, n).

    Args:
        x: float64 of shape (n, d).
        rows: Rows to compute.
        bandwidth: Width of the kernel, in the unit of the features.
    """
    kernel: Array = np.exp(_squared_distances(x, rows) / (-2 * bandwidth**2))
    return kernel


def median_bandwidth(x: Array, fraction: float = 0.5) -> float:
    """Return a fraction of the median distance between two images.

    The median is over all pairs (and, as in the source, each image with itself), or over those of 4,096 images
    drawn with a fixed seed where there are more.

    Args:
        x: float64 of shape (n, d).
        fraction: Factor on the median; small values make the kernel local.

    Returns:
        The bandwidth, in the unit of the features, > 0.

    Raises:
        ValueError: If half of all pairs are equal.

    Source:
        Kornblith et al. 2019 (1905.00414), section 5 and their published notebook.
    """
    some = x
    if len(x) > _MEDIAN_OVER:
        some = x[np.random.default_rng(0).choice(len(x), _MEDIAN_OVER, replace=False)]
    median = float(np.median(_squared_distances(some, slice(None))))
    if median <= 0:
        raise ValueError("half of all pairs of images have the same features: the median distance is zero")
    return fraction * math.sqrt(median)


def replicate_rbf_cka(x: ArrayLike, y: ArrayLike, fraction: float = 0.5) -> Replicated:
    """Compute the debiased CKA with Gaussian kernels, also without each image.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 5.
        y: Shape (n, e), the same images in the same order.
        fraction: Bandwidth as a fraction of each side's median distance, which stays fixed when an image is left
            out.

    Returns:
        Values in [-1, 1]: about 0 for unrelated representations, 1 for equal ones up to rotation and scale.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, half of all pairs are equal, the images differ,
            or if the kernel is constant.

    Source:
        Kornblith et al. 2019 (1905.00414), eq. 2, with the unbiased HSIC of Song et al. 2012, eq. 5.
    """
    left, right = centred(x, 5, "RBF CKA"), centred(y, 5, "RBF CKA")
    same_images(left, right)
    sides = [(side, median_bandwidth(side, fraction)) for side in (left, right)]
    sums = np.zeros((5, len(left)))  # row sums k and m, then c_i = sum_j K_ij L_ij of (x, y), (x, x), (y, y)
    for _, k, m in _kernels(sides):
        sums += [k.sum(0), m.sum(0), *(np.einsum("ij,ij->j", a, b) for a, b in ((k, m), (k, k), (m, m)))]
    k_sums, m_sums, *couplings = sums
    both = np.column_stack([k_sums, m_sums])
    # A second pass computes the kernels again: n x n of them would not fit in memory.
    times_k, times_m = (np.concatenate(blocks) for blocks in zip(*_products(sides, both), strict=True))
    cross = _hsic(k_sums, m_sums, times_k[:, 1] + times_m[:, 0], couplings[0])
    own_x = _hsic(k_sums, k_sums, 2 * times_k[:, 0], couplings[1])
    own_y = _hsic(m_sums, m_sums, 2 * times_m[:, 1], couplings[2])
    if min(own_x.value, own_y.value, own_x.without.min(), own_y.without.min()) <= _NO_VARIANCE:
        raise ValueError("all images are equally far apart at this bandwidth: RBF CKA is not defined")
    value = cross.value / math.sqrt(own_x.value * own_y.value)
    return Replicated(value, cross.without / np.sqrt(own_x.without * own_y.without))


def _kernels(sides: list[tuple[Array, float]]) -> Iterator[tuple[slice, Array, Array]]:
    n = len(sides[0][0])
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        k, m = (rbf_kernel(side, rows, bandwidth) for side, bandwidth in sides)
        every = np.arange(rows.stop - rows.start)
        # Debiased HSIC is defined on kernels with a zero diagonal.
        k[every, every + start] = m[every, every + start] = 0
        yield rows, k, m


def _products(sides: list[tuple[Array, float]], vectors: Array) -> Iterator[tuple[Array, Array]]:
    for _, k, m in _kernels(sides):
        yield k @ vectors, m @ vectors


def _hsic(k: Array, m: Array, times: Array, c: Array) -> Replicated:
    """Compute HSIC from the row sums k, m of two kernels, (K m + L k)_i and c_i = sum_j K_ij L_ij."""
    n, product = len(k), float(k @ m)
    return Replicated(
        float(hsic_from_sums(n, c.sum(), k.sum(), m.sum(), product)),
        hsic_from_sums(n - 1, c.sum() - 2 * c, k.sum() - 2 * k, m.sum() - 2 * m, product - k * m - times + c),
    )


def _squared_distances(x: Array, rows: slice) -> Array:
    norms = np.einsum("ij,ij->i", x, x)
    distances: Array = norms[rows, None] + norms - 2 * x[rows] @ x.T
    return np.maximum(distances, 0.0, out=distances)
