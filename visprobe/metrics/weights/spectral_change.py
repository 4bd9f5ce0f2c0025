"""The singular values of a weight matrix's change, and where the change lies among the base's singular directions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh, subspace_angles
from scipy.sparse.linalg import svds

from visprobe.metrics.arrays import Array

# A Gram matrix of this side is decomposed in about five seconds on one core; above, Lanczos is cheaper.
_GRAM_SIDE = 2048


class SpectralChange(NamedTuple):
    """Size and shape of a change, relative to its base.

    Attributes:
        relative_frobenius: Frobenius norm of the change over that of the base, >= 0.
        relative_spectral: Largest singular value of the change over that of the base, >= 0.
        stable_rank: Squared Frobenius over squared spectral norm of the change, in [1, min(m, n)]; 0 without change.
    """

    relative_frobenius: float
    relative_spectral: float
    stable_rank: float


class SubspaceEnergy(NamedTuple):
    """Shares in [0, 1] of the change's squared Frobenius norm within the base's top-k singular directions.

    Attributes:
        left: Within the left (output) directions; k / m for a change of random direction.
        right: Within the right (input) directions; k / n for a change of random direction.
        both: Within both; k^2 / (m n) for a change of random direction.
    """

    left: float
    right: float
    both: float


class PrincipalAngles(NamedTuple):
    """Angles in radians between the top-k subspaces of two matrices, largest first, shape (k,) each."""

    left: Array
    right: Array


def spectral_change(base: ArrayLike, other: ArrayLike) -> SpectralChange:
    """Frobenius and spectral size of the change, and its stable rank.

    Args:
        base: Any real dtype, shape (m, n) or (m, ...): what follows the first axis is taken as one.
        other: The same shape.

    Raises:
        ValueError: If the shapes differ or have fewer than two axes, a value is not finite, or the base is zero.

    Source:
        Stable rank: Rudelson & Vershynin 2007 (math/0503442), section 1.
    """
    origin, change = _base_and_change(base, other)
    frobenius = float(np.linalg.norm(change))
    if frobenius == 0:
        return SpectralChange(0.0, 0.0, 0.0)
    largest = float(top_singular(change, 1)[1][0])
    base_largest = float(top_singular(origin, 1)[1][0])
    relative = frobenius / float(np.linalg.norm(origin))
    return SpectralChange(relative, largest / base_largest, (frobenius / largest) ** 2)


def subspace_energy(base: ArrayLike, other: ArrayLike, k: int) -> SubspaceEnergy:
    """Share of the change that lies in the directions along which the base was already strong.

    Args:
        base: As `spectral_change`.
        other: As `spectral_change`.
        k: Number of singular directions, at most min(m, n).

    Raises:
        ValueError: As `spectral_change`, for another k, or if nothing changed.
    """
    origin, change = _base_and_change(base, other)
    u, _, v = top_singular(origin, k)
    total = float(np.vdot(change, change))
    if total == 0:
        raise ValueError("nothing changed: there is no energy to share out")
    left, right = u.T @ change, change @ v
    both = left @ v
    return SubspaceEnergy(*(float(np.vdot(part, part)) / total for part in (left, right, both)))


def principal_angles(base: ArrayLike, other: ArrayLike, k: int) -> PrincipalAngles:
    """How far the top-k singular subspaces turned.

    Args:
        base: As `spectral_change`.
        other: As `spectral_change`.
        k: Number of singular directions, at most min(m, n). The subspace is only defined where the k-th singular
            value is larger than the next.

    Returns:
        Angles in [0, pi / 2].

    Raises:
        ValueError: As `spectral_change`, or for another k.

    Source:
        Bjoerck & Golub 1973; small angles by sines as in Knyazev & Argentati 2002.
    """
    origin, change = _base_and_change(base, other)
    u, _, v = top_singular(origin, k)
    other_u, _, other_v = top_singular(origin + change, k)
    return PrincipalAngles(np.asarray(subspace_angles(u, other_u)), np.asarray(subspace_angles(v, other_v)))


def top_singular(matrix: Array, k: int) -> tuple[Array, Array, Array]:
    """The k largest singular values with their vectors, at a cost that is bounded for large matrices.

    Up to a smaller side of 2,048 from the Gram matrix of that side: a singular value s is then off by about
    1e-16 s_max^2 / s, and only values far below 1e-8 s_max, or directions of nearly equal values, lose their meaning.
    Above that by Lanczos iteration to 1e-10.

    Args:
        matrix: float64 of shape (m, n).
        k: How many, at most min(m, n).

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
    # V from U, made orthonormal: V = M^T U / s loses that where s is small.
    v, r = np.linalg.qr(matrix.T @ u)
    return u, s, v * np.sign(np.diag(r))


def _base_and_change(base: ArrayLike, other: ArrayLike) -> tuple[Array, Array]:
    origin, result = np.asarray(base, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if origin.shape != result.shape:
        raise ValueError(f"shapes {origin.shape} and {result.shape} differ")
    if origin.ndim < 2 or not origin.size:
        raise ValueError(f"singular values need a matrix, got shape {origin.shape}")
    if not (np.isfinite(origin).all() and np.isfinite(result).all()):
        raise ValueError("the weights hold NaN or infinity")
    if not origin.any():
        raise ValueError("the base is all zero: a change has no size relative to it")
    origin = origin.reshape(len(origin), -1)
    return origin, result.reshape(len(origin), -1) - origin
