"""L2-penalised logistic regression with scikit-learn's objective, over a whole path of C in one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from visprobe.metrics.arrays import Array, Labels
from visprobe.metrics.classifiers.newton import Link, Path

# Bound on Fit.gradient: the loss is then about 5e-7 nats above its minimum.
TOLERANCE = 1e-3
_ROWS = 8192


class NotConverged(UserWarning):
    """Warning that a fit stopped before its gradient was small enough."""


class Fit(NamedTuple):
    """Fitted linear classifier.

    Attributes:
        weights: float64, shape (classes, d); (1, d) for two classes, as in scikit-learn; (labels, d) for labels.
        intercept: float64, one for each row of `weights`.
        c: Inverse strength of the penalty, scikit-learn's C.
        loss: Mean of cross entropy plus |weights|^2 / (2 c n), in nats.
        gradient: Norm of the gradient of `loss`, each coordinate divided by the square root of its curvature.
        converged: True if `gradient` is within the tolerance.
    """

    weights: Array
    intercept: Array
    c: float
    loss: float
    gradient: float
    converged: bool

    def logits(self, features: ArrayLike) -> Array:
        """Return logits of shape (n, weights rows), float64, for features of shape (n, d)."""
        rows = np.asarray(features)
        scores = np.empty((len(rows), len(self.intercept)))
        for start in range(0, len(rows), _ROWS):  # the product makes a float64 copy of its rows
            scores[start : start + _ROWS] = rows[start : start + _ROWS] @ self.weights.T
        scores += self.intercept
        return scores

    def classes(self, features: ArrayLike) -> Labels:
        """Return the most probable class of each row of features, int64 of shape (n,); not for multi-label fits."""
        logits = self.logits(features)
        found: Labels = (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(1)
        return found


def prepared(features: ArrayLike, device: str = "cpu") -> Path:
    """Prepare features once for several fits: of other labels, or of the first rows alone.

    Args:
        features: Any floating dtype, shape (n, d). A float32 copy is made beside them.
        device: Torch device to compute on.

    Returns:
        A path that fits any labels of these rows.

    Raises:
        ValueError: If the shape does not fit or a feature is not finite.
    """
    return Path(_tensor(features, device))


def logistic_fits(
    path: Path, labels: Labels, cs: Sequence[float], tolerance: float = TOLERANCE, start: Fit | None = None
) -> Iterator[Fit]:
    """Yield the fits of `logistic_path` one by one, so that a caller may stop early.

    Args:
        path: Features from `prepared`.
        labels: Class of each row, int64 of shape (n,); every class 0..max must occur, two at least.
        cs: Inverse strengths of the penalty, positive and rising.
        tolerance: Bound on `Fit.gradient`.
        start: A fit of the same shape to begin at.

    Raises:
        ValueError: If the labels do not fit or `cs` does not rise.
    """
    return _fits(path, _class_link(labels, path.features), cs, tolerance, start)


def multilabel_fits(path: Path, targets: ArrayLike, cs: Sequence[float], tolerance: float = TOLERANCE) -> Iterator[Fit]:
    """Yield the fits of `multilabel_path` one by one, so that a caller may stop early.

    Args:
        path: Features from `prepared`.
        targets: Bool or 0 and 1, shape (n, labels); each label must hold for some row and not for all.
        cs: Inverse strengths of the penalty, positive and rising.
        tolerance: Bound on `Fit.gradient`, for all labels together.

    Raises:
        ValueError: If the targets do not fit or `cs` does not rise.
    """
    truth, n = np.asarray(targets), len(path.features)
    if truth.ndim != 2 or len(truth) != n or not np.isin(truth, (0, 1)).all():
        raise ValueError(f"targets must be 0 or 1 of shape ({n}, labels), got shape {truth.shape}")
    if not truth.any(0).all() or truth.all(0).any():
        raise ValueError("a label holds for no row or for every row: it cannot be learnt")
    return _fits(path, _Sigmoid(torch.tensor(truth, device=path.features.device)), cs, tolerance)


def logistic_path(
    features: ArrayLike,
    labels: Labels,
    cs: Sequence[float],
    tolerance: float = TOLERANCE,
    device: str = "cpu",
    start: Fit | None = None,
) -> list[Fit]:
    """Fit multinomial logistic regression at every C, from the smallest up, each fit warm-started.

    The objective is scikit-learn's: c times the summed cross entropy plus half the squared weights, with a free
    intercept; with two classes there is one logit, of class 1.

    Args:
        features: Any floating dtype, shape (n, d). Memory: one float32 copy of them, and float32 arrays of shape
            (n, classes).
        labels: Class of each row, int64 of shape (n,); every class 0..max must occur, two at least.
        cs: Inverse strengths of the penalty, positive and rising.
        tolerance: Bound on `Fit.gradient`; a fit that misses it warns `NotConverged`.
        device: Torch device to compute on.
        start: A fit of the same shape to begin at.

    Returns:
        One fit for each C.

    Raises:
        ValueError: If shapes do not fit, a feature is not finite, a class has no image, or `cs` does not rise.
    """
    return list(logistic_fits(prepared(features, device), labels, cs, tolerance, start))


def multilabel_path(
    features: ArrayLike, targets: ArrayLike, cs: Sequence[float], tolerance: float = TOLERANCE, device: str = "cpu"
) -> list[Fit]:
    """Fit independent binary logistic regressions of many labels on the same features, at every C.

    Args:
        features: Any floating dtype, shape (n, d).
        targets: Bool or 0 and 1, shape (n, labels); each label must hold for some row and not for all.
        cs: Inverse strengths of the penalty, positive and rising.
        tolerance: Bound on `Fit.gradient`, for all labels together; a fit that misses it warns `NotConverged`.
        device: Torch device to compute on.

    Returns:
        One fit for each C; a positive logit predicts that the label holds.

    Raises:
        ValueError: If shapes do not fit, a feature is not finite, a label holds for no row or for all, or `cs` does
            not rise.
    """
    return list(multilabel_fits(prepared(features, device), targets, cs, tolerance))


class _Softmax:
    shared = True

    def __init__(self, labels: Tensor, outputs: int) -> None:
        self._labels, self.outputs = labels[:, None], outputs

    def residual(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        own = self._labels[rows]
        logs = torch.log_softmax(logits, 1)
        loss, chances = -logs.gather(1, own).sum(), logs.exp_()
        return loss, chances.scatter_add(1, own, torch.full_like(chances, -1.0)[:, :1]), chances

    def hessian_vector_product(self, state: Tensor, tangent: Tensor, rows: slice) -> Tensor:
        # Relative to the true class: its 1 - p, which loses its digits in float32 when p is near 1, is then not needed.
        tangent -= tangent.gather(1, self._labels[rows])
        return tangent.sub_((state * tangent).sum(1, keepdim=True)).mul_(state)

    def curvature(self, state: Tensor) -> Tensor:
        return state * (1 - state)


class _Sigmoid:
    shared = False

    def __init__(self, truth: Tensor) -> None:
        self._sign, self.outputs = 2 * truth.to(torch.int8) - 1, truth.shape[1]

    def residual(self, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        sign = self._sign[rows]
        # log sigmoid and expm1 keep 1 - p exact where p rounds to 1.
        logs = -torch.logaddexp(-sign * logits, torch.zeros_like(logits))
        wrong = -torch.expm1(logs)
        return -logs.sum(), -sign * wrong, wrong * (1 - wrong)

    def hessian_vector_product(self, state: Tensor, tangent: Tensor, rows: slice) -> Tensor:
        return tangent.mul_(state)

    def curvature(self, state: Tensor) -> Tensor:
        return state


def _class_link(labels: Labels, data: Tensor) -> Link:
    if labels.shape != (len(data),) or labels.min() < 0 or not np.bincount(labels).all() or labels.max() < 1:
        raise ValueError(f"labels must be {len(data)} classes from 0 on, each with an image, two classes at least")
    truth = torch.tensor(labels, device=data.device)
    return _Sigmoid(truth[:, None] == 1) if labels.max() == 1 else _Softmax(truth, int(labels.max()) + 1)


def _tensor(features: ArrayLike, device: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
        data = torch.as_tensor(np.ascontiguousarray(features), device=device)
    if data.ndim != 2 or not data.numel() or not data.is_floating_point() or not torch.isfinite(data).all():
        raise ValueError(f"features must be finite real numbers of shape (n, d), got shape {tuple(data.shape)}")
    return data


def _fits(path: Path, link: Link, cs: Sequence[float], tolerance: float, start: Fit | None = None) -> Iterator[Fit]:
    if not cs or min(cs) <= 0 or any(a >= b for a, b in pairwise(cs)):
        raise ValueError(f"C must be positive and rising, got {list(cs)}")
    begin, n = None if start is None else (start.weights.T, start.intercept), len(path.features)
    for c, found in zip(cs, path.fit(link, [1 / (c * n) for c in cs], tolerance, begin), strict=True):
        if found.gradient > tolerance:
            text = f"logistic regression at C = {c:g}: gradient {found.gradient:.1e}, wanted {tolerance:.1e}"
            warnings.warn(text, NotConverged, stacklevel=3)
        weights, intercept = found.weights.T.contiguous().cpu().numpy(), found.intercept.cpu().numpy()
        yield Fit(weights, intercept, c, found.loss, found.gradient, found.gradient <= tolerance)
