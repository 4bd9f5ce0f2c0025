"""Effective rank, RankMe and participation ratio: how many directions a representation uses.

All are at most min(n, d) and grow with n: compare them at equal numbers of images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import centred, finite

_RANKME_ADDS = 1e-7


def effective_rank(features: ArrayLike, eigenvalues: bool = False) -> float:
    """Compute the exponential of the entropy of the singular values of centred features.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 2.
        eigenvalues: Take the entropy of their squares, the eigenvalues of the covariance, instead.

    Returns:
        A value in [1, min(n - 1, d)]: r where r directions share the spectrum equally.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, or all rows are equal.

    Source:
        Roy & Vetterli 2007, eqs. 3-5: singular values.
    """
    values = _singular_values(centred(features, 2, "effective rank"))
    return _spread(values**2 if eigenvalues else values)


def replicate_effective_rank(features: ArrayLike, groups: int = 20, seed: int = 0) -> Replicated:
    """Compute the effective rank of the singular values, and its value without each of some groups of images.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 2 x `groups`.
        groups: Number of groups, drawn at random.
        seed: Seed of the draw: equal seeds give the same groups, so that two ranks may be subtracted.

    Returns:
        Values in [1, min(n - 1, d)].

    Raises:
        ValueError: If the shape does not fit, a value is not finite, or there are fewer than two images to a group.
    """
    array = centred(features, 2, "effective rank")
    parts = _without_groups(array, groups, seed, centre=True)
    return Replicated(effective_rank(array), np.array([_spread(values) for values in parts]), len(array))


def rankme(features: ArrayLike) -> float:
    """Compute RankMe: the effective rank of uncentred features, with the paper's 1e-7 added to every share.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 1.

    Returns:
        A value in [1, min(n, d)], up to 1e-6.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, or all features are zero.

    Source:
        Garrido et al. 2023 (2210.02885), eqs. 1-2.
    """
    return _spread(_singular_values(_scaled(features)), _RANKME_ADDS)


def replicate_rankme(features: ArrayLike, groups: int = 20, seed: int = 0) -> Replicated:
    """Compute RankMe, and its value without each of some groups of images.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 2 x `groups`.
        groups: Number of groups, drawn at random.
        seed: Seed of the draw: equal seeds give the same groups, so that two values may be subtracted.

    Returns:
        Values in [1, min(n, d)], up to 1e-6.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, all features are zero, or there are fewer than two
            images to a group.
    """
    array = _scaled(features)
    parts = _without_groups(array, groups, seed, centre=False)
    return Replicated(rankme(array), np.array([_spread(values, _RANKME_ADDS) for values in parts]), len(array))


def participation_ratio(features: ArrayLike) -> Replicated:
    """Compute (sum of eigenvalues)^2 / (sum of squared eigenvalues) of the covariance, also without each image.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 3.

    Returns:
        Values in [1, min(n - 1, d)]: r where r directions share the variance equally.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, or all variance hangs on one image.

    Source:
        Gao et al. 2017 (bioRxiv 214262), eq. 5. Without image i, centred on the others, the scatter matrix is
        S - w u u^T with u the image's centred features and w = n / (n - 1).
    """
    u = centred(features, 3, "the participation ratio")
    n, weight = len(u), len(u) / (len(u) - 1)
    p = np.einsum("ij,ij->i", u, u)
    # Both forms have the same sums; the smaller matrix is cheaper.
    if n < u.shape[1]:
        gram = u @ u.T
        squares, quadratic = float(np.vdot(gram, gram)), np.einsum("ij,ij->i", gram, gram)
    else:
        scatter = u.T @ u
        squares, quadratic = float(np.vdot(scatter, scatter)), np.einsum("ij,ij->i", u @ scatter, u)
    trace = float(p.sum())
    left = trace - weight * p
    if left.min() <= 1e-12 * trace:
        raise ValueError("the variance hangs on a single image: the participation ratio is not defined without it")
    # Trace and squared Frobenius norm of S - w u u^T, expanded: no matrix is formed per image.
    without: Array = left**2 / (squares - 2 * weight * quadratic + weight**2 * p**2)
    return Replicated(trace**2 / squares, without)


def _scaled(features: ArrayLike) -> Array:
    array = finite(features, 1, "RankMe")
    largest = np.abs(array).max()
    if largest == 0:
        raise ValueError("all features are zero: they have no rank")
    scaled: Array = array / largest
    return scaled


def _spread(values: Array, added: float = 0.0) -> float:
    """Return the exponential of the entropy of the shares, with a constant added to every share."""
    shares = values / values.sum() + added
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _without_groups(array: Array, groups: int, seed: int, centre: bool) -> Iterator[Array]:
    """Yield the singular values without each group, from the d x d matrix less the group's part of it."""
    n = len(array)
    if not 2 <= groups <= n / 2:
        raise ValueError(f"{n} images are too few to be left out in {groups} groups")
    group = np.random.default_rng(seed).permutation(n) % groups
    gram, sums = array.T @ array, array.sum(0)
    for one in range(groups):
        rows = array[group == one]
        left = gram - rows.T @ rows
        if centre:
            kept = sums - rows.sum(0)
            left -= np.outer(kept, kept) / (n - len(rows))
        # Eigenvalues beyond the rank are rounding, and would count as directions.
        rank = min(n - len(rows) - centre, array.shape[1])
        yield np.sqrt(np.maximum(np.linalg.eigvalsh(left)[-rank:], 0.0))


def _singular_values(array: Array) -> Array:
    # QR first: only a square of the smaller side is then decomposed.
    tall = array if len(array) >= array.shape[1] else array.T
    values: Array = np.linalg.svd(np.asarray(np.linalg.qr(tall, mode="r")), compute_uv=False)
    return values
