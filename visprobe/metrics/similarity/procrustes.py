"""Procrustes distance of two representations after the best rotation, on the same and on held-out images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import centred, finite, same_images


class Procrustes(NamedTuple):
    """Fit of two representations, centred and of unit Frobenius norm, after the best rotation.

    Attributes:
        similarity: Frobenius inner product, in [0, 1] where fitted and [-1, 1] where held out.
    """

    similarity: float

    @property
    def squared_distance(self) -> float:
        """Squared Frobenius distance, in [0, 2] where fitted: 0 for representations that differ by a rotation."""
        return 2 - 2 * self.similarity

    @property
    def angle(self) -> float:
        """Angular distance in radians, a metric where fitted: in [0, pi / 2]."""
        return math.acos(min(1.0, max(-1.0, self.similarity)))


class HeldOut(NamedTuple):
    """Fit on images that the rotation was not fitted to.

    Attributes:
        mean: Mean of the two halves.
        first: Fitted on the second half, scored on the first.
        second: Fitted on the first half, scored on the second.
        fitted: Mean fit on the images fitted to: the gap to `mean` is its optimism.
    """

    mean: Procrustes
    first: Procrustes
    second: Procrustes
    fitted: Procrustes


def procrustes(x: ArrayLike, y: ArrayLike) -> Procrustes:
    """Fit a rotation or reflection over all images; the narrower side is padded with zeros.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 2.
        y: Shape (n, e), the same images in the same order.

    Returns:
        The fit. It is optimistic unless n is much larger than d and e: use `procrustes_held_out` as well.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, a side is constant, or the images differ in number.

    Source:
        Schoenemann 1966; Ding, Denain & Steinhardt 2021 (2108.01661), eq. 5; Williams et al. 2021 (2110.14739).
    """
    left, right = centred(x, 2, "Procrustes"), centred(y, 2, "Procrustes")
    same_images(left, right)
    nuclear = float(np.linalg.svd(_cross(left, right), compute_uv=False).sum())
    return Procrustes(nuclear / float(np.linalg.norm(left) * np.linalg.norm(right)))


def procrustes_held_out(x: ArrayLike, y: ArrayLike, seed: int = 0) -> HeldOut:
    """Fit a rotation on one half of the images and score it on the other, both ways.

    Means are those of the half fitted to; norms those of the half scored.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 4.
        y: Shape (n, e), the same images in the same order.
        seed: Seed of the random halves.

    Returns:
        The fits; about 0 for unrelated representations whatever n and d.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, or a half has no variance.
    """
    left, right, a, b = _halves(x, y, seed)
    first, fitted_b = _fit_and_score(left, right, b, a)
    second, fitted_a = _fit_and_score(left, right, a, b)
    scores = (first.value + second.value) / 2, first.value, second.value, (fitted_a + fitted_b) / 2
    return HeldOut(*map(Procrustes, scores))


def replicate_procrustes(x: ArrayLike, y: ArrayLike, seed: int = 0) -> Replicated:
    """Compute the mean held-out similarity, also without each image, the rotations held fixed.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 4.
        y: Shape (n, e), the same images in the same order.
        seed: Seed of the random halves.

    Returns:
        Values in [-1, 1]. The interval leaves out how the rotations vary with the images they are
        fitted to: at nominal 95 % it covers 90 to 94 % with ten images to a dimension, 94 to 96 % with fifty.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, or a half has no variance.
    """
    left, right, a, b = _halves(x, y, seed)
    first, second = _fit_and_score(left, right, b, a)[0], _fit_and_score(left, right, a, b)[0]
    without = np.empty(len(left))
    without[a], without[b] = first.without + second.value, second.without + first.value
    return Replicated((first.value + second.value) / 2, without / 2)


def _halves(x: ArrayLike, y: ArrayLike, seed: int) -> tuple[Array, Array, Indices, Indices]:
    left, right = finite(x, 4, "held-out Procrustes"), finite(y, 4, "held-out Procrustes")
    same_images(left, right)
    order = np.random.default_rng(seed).permutation(len(left))
    return left, right, order[: len(order) // 2], order[len(order) // 2 :]


def _fit_and_score(x: Array, y: Array, fit: Indices, score: Indices) -> tuple[Replicated, float]:
    """Return the similarity on the images scored, also without each of them, and on those fitted to."""
    for half in (fit, score):
        centred(x[half], 2, "held-out Procrustes")  # refuses a half without variance
        centred(y[half], 2, "held-out Procrustes")
    mean_x, mean_y = x[fit].mean(0), y[fit].mean(0)
    left, right = x[fit] - mean_x, y[fit] - mean_y
    u, s, vt = np.linalg.svd(left.T @ right, full_matrices=False)
    fitted = float(s.sum()) / float(np.linalg.norm(left) * np.linalg.norm(right))
    left, right = x[score] - mean_x, y[score] - mean_y
    inner = np.einsum("ij,ij->i", left @ u, right @ vt.T)
    # Divided by the largest entries, which cancel in the ratio, so that squares stay within float64.
    own_x, own_y = (np.square(side / np.abs(side).max()).sum(1) for side in (left, right))
    inner /= np.abs(left).max() * np.abs(right).max()
    without = (inner.sum() - inner) / np.sqrt((own_x.sum() - own_x) * (own_y.sum() - own_y))
    return Replicated(float(inner.sum() / np.sqrt(own_x.sum() * own_y.sum())), without), fitted


def _cross(x: Array, y: Array) -> Array:
    """Return a small matrix with the singular values of x^T y."""
    if len(x) >= min(x.shape[1], y.shape[1]):
        return x.T @ y
    # x^T y = Qx Rx Ry^T Qy^T with Q orthonormal: n x n in place of d x e.
    triangles: list[Array] = [np.asarray(np.linalg.qr(side.T, mode="r")) for side in (x, y)]
    return triangles[0] @ triangles[1].T
