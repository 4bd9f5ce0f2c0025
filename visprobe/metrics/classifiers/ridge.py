"""Ridge regression in closed form, its penalty chosen by generalised cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.matrices import finite


class Ridge(NamedTuple):
    """Linear map from features to targets.

    Attributes:
        weights: float64, shape (targets, d).
        intercept: float64, shape (targets,).
        penalty: The penalty with the least cross-validated error.
        errors: Cross-validated mean squared error for each penalty tried, in squared units of the targets.
    """

    weights: Array
    intercept: Array
    penalty: float
    errors: tuple[float, ...]

    def predict(self, features: ArrayLike) -> Array:
        """Return targets of shape (n, targets), float64, for features of shape (n, d)."""
        predicted: Array = np.asarray(features) @ self.weights.T + self.intercept
        return predicted


def ridge(features: ArrayLike, targets: ArrayLike, penalties: Sequence[float]) -> Ridge:
    """Minimise the squared error plus penalty times the squared weights, with a free intercept.

    For classes, give targets of one column per class, 1 for the own and 0 for the others.

    Args:
        features: Any real dtype, shape (n, d), n >= 3.
        targets: Any real dtype, shape (n, targets).
        penalties: Positive, as scikit-learn's alpha; that with the least generalised cross-validation error over
            all targets together is used, of equally good ones the first.

    Returns:
        The fit on all images.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or a penalty is not positive.

    Source:
        Golub, Heath & Wahba 1979, eq. 1.4: mean squared residual over the squared share of residual degrees of
        freedom, here without the one of the intercept.
    """
    x, y = finite(features, 3, "ridge regression"), finite(targets, 3, "ridge regression")
    if len(x) != len(y) or not penalties or min(penalties) <= 0:
        raise ValueError(f"{len(x)} rows of features, {len(y)} of targets, penalties {list(penalties)}")
    mean, target_mean = x.mean(0), y.mean(0)
    x, y = x - mean, y - target_mean
    squares, axes = np.linalg.eigh(x.T @ x)
    squares = np.maximum(squares, 0.0)
    # Directions without variance keep a little by rounding, which must not count as a degree of freedom.
    squares[squares <= squares.max(initial=0.0) * len(x) * np.finfo(np.float64).eps] = 0.0
    cross = axes.T @ (x.T @ y)
    turned = x @ axes
    errors = tuple(_cross_validated(squares, cross, y, turned, penalty) for penalty in penalties)
    penalty = penalties[int(np.argmin(errors))]
    weights = (axes @ (cross / (squares + penalty)[:, None])).T
    return Ridge(weights, target_mean - weights @ mean, penalty, errors)


def _cross_validated(squares: Array, cross: Array, y: Array, turned: Array, penalty: float) -> float:
    residual = y - turned @ (cross / (squares + penalty)[:, None])
    # The trace of the residual-forming matrix over n; the inner 1 is the intercept's.
    free = 1 - (1 + (squares / (squares + penalty)).sum()) / len(y)
    return float(np.mean(residual**2) / free**2)
