"""Singular values of a weight matrix's change, and its place among the base's singular directions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh, subspace_angles
from scipy.sparse.linalg import svds

from visprobe.metrics.arrays import Array

# A Gram matrix of this size is decomposed in about five seconds on one core; above, Lanczos is cheaper.
_GRAM_SIDE = 2048


class ChangeDirections(NamedTuple):
    """Size of a change relative to its base, and its share in the base's top-k singular directions.

    Attributes:
        squared_change: Squared Frobenius norm of the change, its energy.
        spectral_change: Largest singular value of the change over that of the base, >= 0.
        stable_rank: Squared Frobenius over squared spectral norm of the change, in [1, min(m, n)].
        energy_left: Share of the energy within the left (output) directions; k / m for a change of random direction.
        energy_right: Share within the right (input) directions; k / n for a change of random direction.
        energy_both: Share within both; k^2 / (m n) for a change of random direction.
        angle_left: Largest angle between the top-k left subspaces before and after, in degrees.
        angle_right: Largest angle between the top-k right subspaces before and after, in degrees.
    """

    squared_change: float
    spectral_change: float
    stable_rank: float
    energy_left: float
    energy_right: float
    energy_both: float
    angle_left: float
    angle_right: float


def change_directions(base: Array, change: Array, top: tuple[Array, Array, Array]) -> ChangeDirections:
    """Compute size, stable rank and directions of a change that is not zero.

    Args:
        base: float64 of shape (m, n).
        change: float64 of the same shape: changed matrix minus base.
        top: U, S and V of the base from `top_singular`. The subspaces are only defined where the k-th value exceeds
            the next.

    Raises:
        ValueError: If the changed matrix has a rank below k.

    Source:
        Stable rank: Rudelson & Vershynin 2007 (math/0503442), section 1. Angles: Bjoerck & Golub 1973; small ones by
        sines as in Knyazev & Argentati 2002.
    """
    u, s, v = top
    largest = float(top_singular(change, 1)[1][0])
    after_u, _, after_v = top_singular(base + change, len(s))
    left, right = u.T @ change, change @ v
    energy = float(np.vdot(change, change))
    shares = [float(np.vdot(part, part)) / energy for part in (left, right, left @ v)]
    angles = [math.degrees(subspace_angles(*pair)[0]) for pair in ((u, after_u), (v, after_v))]
    return ChangeDirections(energy, largest / float(s[0]), energy / largest**2, *shares, *angles)


def top_singular(matrix: Array, k: int) -> tuple[Array, Array, Array]:
    """Compute the k largest singular values with their vectors, at a bounded cost for large matrices.

    Up to a smaller side of 2,048 from the Gram matrix of that side: a singular value s is then off by about
    1e-16 s_max^2 / s, and only values far below 1e-8 s_max, or directions of nearly equal values, lose their meaning.
    Above that by Lanczos iteration to 1e-10.

    Args:
        matrix: float64 of shape (m, n).
        k: Number of singular values, at most min(m, n).

    Returns:
        U of shape (m, k), singular values of shape (k,) in descending order, V of shape (n, k).

    Raises:
        ValueError: If k is not within 1..min(m, n), or the matrix has a rank below k.
    """
    side = min(matrix.shape)
    if not 1 <= k <= side:
        raise ValueError(f"k must be between 1 and {side} for shape {matrix.shape}, got {k}")
    if matrix.shape[0] > matrix.shape[1]:
        u, s, v = top_singular(matrix.T, k)
        return v, s, u
    if side <= _GRAM_SIDE or k == side:
        squares, u = eigh(matrix @ matrix.T, subset_by_index=(side - k, side - 1))
        u, s = u[:, ::-1], np.sqrt(np.maximum(squares[::-1], 0.0))
    else:
        start = np.random.default_rng(0).standard_normal(side)
        u, s, _ = svds(matrix, k, v0=start, tol=1e-10)
        u, s = u[:, np.argsort(-s)], np.sort(s)[::-1]
    if s[-1] <= 1e-6 * s[0]:
        raise ValueError(f"the matrix of shape {matrix.shape} has fewer than {k} singular values above rounding")
    # V from U by QR: V = M^T U / s is not orthonormal where s is small.
    v, r = np.linalg.qr(matrix.T @ u)
    # QR leaves the signs of columns open: they are set so that M = U S V^T.
    return u, s, v * np.sign(np.diag(r))
