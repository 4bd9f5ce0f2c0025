"""Ridge regression of one representation on another, scored on held-out images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import centred, same_images

# Penalties tried, relative to the mean eigenvalue of the covariance of the training images.
PENALTIES = 10.0 ** np.arange(-8, 5)


class LinearMap(NamedTuple):
    """Share of `y` that a linear map of `x` explains.

    Attributes:
        r2: Share of the variance of held-out images explained, <= 1 and negative where it predicts worse than the
            mean; also without each image, the maps held fixed.
        penalties: Penalty chosen in each fold, from `PENALTIES`, shape (folds,).
    """

    r2: Replicated
    penalties: Array


def linear_map(x: ArrayLike, y: ArrayLike, folds: int = 5, seed: int = 0) -> LinearMap:
    """Fit y = x W + b in each fold by ridge regression and score it on the images left out.

    The penalty minimises generalised cross-validation on the training images alone.

    Args:
        x: Any real dtype, shape (n, d), one row per image.
        y: Shape (n, e), the same images in the same order.
        folds: Number of parts, each held out once.
        seed: Seed of the random parts.

    Returns:
        R^2 pooled over all units and held-out images: 1 - sum of squared errors / sum of squared distances from the
        training mean. About 0, or a little less, for unrelated representations whatever n and d.

    Raises:
        ValueError: If a shape does not fit, a value is not finite, the numbers of images differ, or unless
            2 <= folds <= n / 2.

    Source:
        Hoerl & Kennard 1970; penalty by Golub, Heath & Wahba 1979, eq. 1.4.
    """
    left, right = centred(x, 4, "a linear map"), centred(y, 4, "a linear map")
    same_images(left, right)
    if not 2 <= folds <= len(left) / 2:
        raise ValueError(f"{len(left)} images cannot be held out in {folds} folds of two or more")
    fold = np.random.default_rng(seed).permutation(len(left)) % folds
    errors, totals, penalties = np.empty(len(left)), np.empty(len(left)), np.empty(folds)
    for held in range(folds):
        test = fold == held
        mean_x, mean_y = left[~test].mean(0), right[~test].mean(0)
        weights, penalties[held] = fit_ridge(left[~test] - mean_x, right[~test] - mean_y)
        target = right[test] - mean_y
        errors[test] = np.square(target - (left[test] - mean_x) @ weights).sum(1)
        totals[test] = np.square(target).sum(1)
    without = 1 - (errors.sum() - errors) / (totals.sum() - totals)
    return LinearMap(Replicated(1 - float(errors.sum() / totals.sum()), without), penalties)


def fit_ridge(x: Array, y: Array) -> tuple[Array, float]:
    """Fit ridge weights at the penalty of least generalised cross-validation error.

    Args:
        x: float64 of shape (n, d), column-centred.
        y: float64 of shape (n, e), column-centred.

    Returns:
        Weights of shape (d, e), and the penalty relative to the mean of the d eigenvalues of x^T x.

    Raises:
        ValueError: If `x` has no variance.
    """
    values, vectors = np.linalg.eigh(x.T @ x)
    values = np.maximum(values, 0.0)
    if values[-1] == 0:
        raise ValueError("the training images of a fold all have the same features")
    scale = float(values.mean())
    turned = vectors.T @ (x.T @ y)  # S U^T y for x = U S V^T
    squares = np.einsum("ij,ij->i", turned, turned)
    errors = [_gcv(len(x), values, squares, float(np.vdot(y, y)), one * scale) for one in PENALTIES]
    best = float(PENALTIES[int(np.argmin(errors))])
    weights: Array = vectors @ (turned / (values + best * scale)[:, None])
    return weights, best


def _gcv(n: int, values: Array, squares: Array, total: float, penalty: float) -> float:
    """Return |(I - H) y|^2 / tr(I - H)^2 for the hat matrix H of a penalty, the mean's degree of freedom included."""
    # |y|^2 - sum (1 - (1 - f)^2) (u.y)^2 with H's eigenvalues f = values / (values + penalty) and
    # squares = values (u.y)^2.
    residual = total - float((squares * (values + 2 * penalty) / (values + penalty) ** 2).sum())
    freedom = n - 1 - float((values / (values + penalty)).sum())
    return residual / freedom**2 if freedom > 1e-6 * n else np.inf
