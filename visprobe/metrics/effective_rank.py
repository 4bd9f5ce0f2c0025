"""How many directions a representation uses: effective rank, RankMe and participation ratio.

All are at most min(n, d) and grow with n: compare them at equal numbers of images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.jackknife import Replicated
from visprobe.metrics.matrices import Array, centred, finite


def effective_rank(features: ArrayLike, eigenvalues: bool = False) -> float:
    """Exponential of the entropy of the singular values of centred features.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 2.
        eigenvalues: Whether to take the entropy of their squares, the eigenvalues of the covariance, instead.

    Returns:
        A value in [1, min(n - 1, d)]: r where r directions share the spectrum equally.

    Raises:
        ValueError: As `visprobe.metrics.matrices.centred`.

    Source:
        Roy & Vetterli 2007, eqs. 3-5: singular values.
    """
    values = _singular_values(centred(features, 2, "effective rank"))
    values = values**2 if eigenvalues else values
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def rankme(features: ArrayLike) -> float:
    """RankMe: the effective rank of uncentred features, with the paper's 1e-7 added to every share.

    Args:
        features: As `effective_rank`, n >= 1.

    Returns:
        A value in [1, min(n, d)], up to 1e-6.

    Raises:
        ValueError: As `visprobe.metrics.matrices.finite`, or if all features are zero.

    Source:
        Garrido et al. 2023 (2210.02885), eqs. 1-2.
    """
    array = finite(features, 1, "RankMe")
    largest = np.abs(array).max()
    if largest == 0:
        raise ValueError("all features are zero: they have no rank")
    values = _singular_values(array / largest)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def participation_ratio(features: ArrayLike) -> Replicated:
    """(sum of eigenvalues)^2 over the sum of their squares, of the covariance, and without each image in turn.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 3.

    Returns:
        Values in [1, min(n - 1, d)]: r where r directions share the variance equally.

    Raises:
        ValueError: As `visprobe.metrics.matrices.centred`, or if all variance hangs on one image.

    Source:
        Gao et al. 2017 (bioRxiv 214262), eq. 5. Without image i, centred on the others, the scatter matrix is
        S - w u u^T with u the image's centred features and w = n / (n - 1).
    """
    u = centred(features, 3, "the participation ratio")
    n, weight = len(u), len(u) / (len(u) - 1)
    p = np.einsum("ij,ij->i", u, u)
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
    without: Array = left**2 / (squares - 2 * weight * quadratic + weight**2 * p**2)
    return Replicated(trace**2 / squares, without)


def _singular_values(array: Array) -> Array:
    # Triangular first: of n x d only a square of the smaller side is decomposed.
    tall = array if len(array) >= array.shape[1] else array.T
    values: Array = np.linalg.svd(np.asarray(np.linalg.qr(tall, mode="r")), compute_uv=False)
    return values
