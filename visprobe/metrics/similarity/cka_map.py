"""Debiased linear CKA of all pairs of many representations of the same images, in one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.matrices import centred, same_images

# Bound on rounding: of a constant Gram matrix of largest entry 1, U-centring leaves less than this.
_NO_VARIANCE = 1e-12


def unit_grams(sites: Sequence[ArrayLike]) -> Array:
    """Compute the U-centred Gram matrix of every representation, flat and of length 1.

    The inner product of two rows is the debiased CKA of the two representations.

    Args:
        sites: Features at each site, any real dtype, shape (n, d_i) each, one row per image, n >= 5.

    Returns:
        float64 of shape (sites, n * n): for 30 sites and 1,000 images 240 MB.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, the images differ in number, or all variance hangs
            on one image.

    Source:
        Szekely & Rizzo 2014, eq. 2.4 (U-centring); Song et al. 2012 (the unbiased HSIC is its inner product).
    """
    first = np.asarray(sites[0])
    grams = np.empty((len(sites), len(first) ** 2))
    for row, features in zip(grams, sites, strict=True):
        array = centred(features, 5, "debiased CKA")
        same_images(first, array)
        row[:] = _u_centred(array @ array.T).ravel()
        row /= np.linalg.norm(row)
    return grams


def cka_map(x: Array, y: Array) -> Array:
    """Compute the debiased CKA of every representation of `x` with every one of `y`.

    Args:
        x: Gram matrices from `unit_grams`, float64 of shape (sites, n * n).
        y: Gram matrices of the same images in the same order, float64 of shape (other sites, n * n).

    Returns:
        float64 of shape (sites, other sites), in [-1, 1].

    Raises:
        ValueError: If the numbers of images differ.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"Gram matrices of {x.shape[1]} and {y.shape[1]} entries: not the same images")
    values: Array = np.clip(x @ y.T, -1.0, 1.0)
    return values


def _u_centred(gram: Array) -> Array:
    """U-centre in place: rows and columns sum to zero off the diagonal, which is zero."""
    n = len(gram)
    gram /= np.abs(gram).max()
    np.fill_diagonal(gram, 0)
    sums = gram.sum(0) / (n - 2)
    gram += sums.sum() / (n - 1) - sums[:, None] - sums[None, :]
    np.fill_diagonal(gram, 0)
    if np.abs(gram).max() <= _NO_VARIANCE:
        raise ValueError("the variance hangs on a single image: CKA is not defined without it")
    return gram
