"""Canonical correlations between two representations: SVCCA and PWCCA."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.matrices import centred, same_images


class SVCCA(NamedTuple):
    """Mean canonical correlation, in [0, 1], and the number of directions kept of either side."""

    value: float
    kept_x: int
    kept_y: int


def svcca(x: ArrayLike, y: ArrayLike, variance: float = 0.99) -> SVCCA:
    """Compute the mean canonical correlation of the principal directions that hold most of the variance.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 3.
        y: Shape (n, e), the same images in the same order.
        variance: Share of the variance of each side to keep, in (0, 1].

    Returns:
        The mean over the smaller number of kept directions. Unrelated data give more than 0: the mean square is
        then max(kept) / (n - 1), so n must be many times the kept directions.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, the images differ in number, or n - 1 directions
            are kept on a side: every correlation would be 1.

    Source:
        Raghu et al. 2017 (1706.05806), section 2.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"the share of variance to keep must be in (0, 1], got {variance}")
    left, right = _bases(x, y, variance)
    correlations = _correlations(left, right)
    return SVCCA(float(correlations.mean()), left.shape[1], right.shape[1])


def pwcca(x: ArrayLike, y: ArrayLike) -> float:
    """Compute canonical correlations weighted by how much of `x` each canonical direction makes up; not symmetric.

    Args:
        x: Side that gives the weights, any real dtype, shape (n, d), one row per image, n >= 3.
        y: Shape (n, e), the same images in the same order.

    Returns:
        A value in [0, 1]; more than 0 for unrelated data, as with `svcca`.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, the images differ in number, or n - 1 directions are
            left on a side.

    Source:
        Morcos, Raghu & Bengio 2018 (1806.05759), eq. 2: weights are sum_j |h_i . x_j| over the columns of x.

    Differs from source:
        Where `x` has more directions than `y` those without a partner have no weight, as in the authors' code.
    """
    left, right = _bases(x, y, 1.0)
    u, correlations, _ = np.linalg.svd(left.T @ right, full_matrices=False)
    weights = np.abs((left @ u).T @ centred(x, 3, "CCA")).sum(1)
    return float(weights @ np.minimum(correlations, 1.0) / weights.sum())


def _correlations(left: Array, right: Array) -> Array:
    values: Array = np.minimum(np.linalg.svd(left.T @ right, compute_uv=False), 1.0)
    return values


def _bases(x: ArrayLike, y: ArrayLike, variance: float) -> tuple[Array, Array]:
    left, right = (_basis(centred(side, 3, "CCA"), variance) for side in (x, y))
    same_images(left, right)
    widest = max(left.shape[1], right.shape[1])
    if widest >= len(left) - 1:
        raise ValueError(f"{len(left)} images are too few for CCA of {widest} directions: all correlations are 1")
    return left, right


def _basis(array: Array, variance: float) -> Array:
    """Return orthonormal columns that span the leading principal directions, shape (n, kept)."""
    # QR first: the SVD is then of d x d, not n x d.
    q, r = np.linalg.qr(array)
    u, s, _ = np.linalg.svd(r, full_matrices=False)
    # Directions that hold only rounding are dropped: CCA would weigh them like any other.
    s = s[s > s[0] * max(array.shape) * np.finfo(np.float64).eps]
    explained = np.cumsum(s**2) / np.sum(s**2)
    # The last cumulative sum may be 1 - 1e-16.
    kept = min(int(np.searchsorted(explained, variance)) + 1, len(s))
    basis: Array = q @ u[:, :kept]
    return basis
