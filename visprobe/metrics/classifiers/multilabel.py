"""Average precision, area under the ROC curve and F1 of multi-label scores, label by label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from visprobe.metrics.arrays import Array
from visprobe.metrics.matrices import finite


def average_precision(scores: ArrayLike, truth: NDArray[np.bool_]) -> Array:
    """Compute the average precision of each label.

    Args:
        scores: Higher where a label is predicted to hold, shape (n, labels). Equal scores are one threshold.
        truth: Bool of shape (n, labels).

    Returns:
        float64 of shape (labels,), in [0, 1]; NaN for a label that holds nowhere.

    Raises:
        ValueError: If shapes do not fit or a score is not finite.
    """
    return _by_label(_average_precision, scores, truth)


def auroc(scores: ArrayLike, truth: NDArray[np.bool_]) -> Array:
    """Compute the area under the ROC curve of each label; ties count half.

    Args:
        scores: Higher where a label is predicted to hold, shape (n, labels).
        truth: Bool of shape (n, labels).

    Returns:
        float64 of shape (labels,), in [0, 1]; NaN for a label that holds nowhere or everywhere.

    Raises:
        ValueError: If shapes do not fit or a score is not finite.
    """
    return _by_label(_auroc, scores, truth)


def f1(scores: ArrayLike, truth: NDArray[np.bool_]) -> Array:
    """Compute the F1 score of each label, predicted where its score is positive.

    Args:
        scores: Logits or margins, shape (n, labels).
        truth: Bool of shape (n, labels).

    Returns:
        float64 of shape (labels,), in [0, 1]; NaN for a label that holds nowhere.

    Raises:
        ValueError: If shapes do not fit or a score is not finite.
    """
    return _by_label(_f1, scores, truth)


def _by_label(one: Callable[[Array, NDArray[np.bool_]], float], scores: ArrayLike, truth: NDArray[np.bool_]) -> Array:
    array = finite(scores, 1, "a prediction")
    if truth.shape != array.shape or truth.dtype != np.bool_:
        raise ValueError(f"truth {truth.dtype} of shape {truth.shape} does not fit scores of shape {array.shape}")
    return np.array([one(s, t) for s, t in zip(array.T, truth.T, strict=True)], dtype=np.float64)


def _average_precision(scores: Array, truth: NDArray[np.bool_]) -> float:
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = truth[order].cumsum()
    # Images of equal score are found together: precision is taken after the last of them.
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    found = np.diff(np.r_[0, hits[last]])
    return float((found * hits[last] / (last + 1)).sum() / hits[-1])


def _auroc(scores: Array, truth: NDArray[np.bool_]) -> float:
    held, n = int(truth.sum()), len(truth)
    if held in (0, n):
        return float("nan")
    # The Mann-Whitney U statistic over its maximum.
    return float((rankdata(scores)[truth].sum() - held * (held + 1) / 2) / (held * (n - held)))


def _f1(scores: Array, truth: NDArray[np.bool_]) -> float:
    if not truth.any():
        return float("nan")
    said = scores > 0
    return 2 * int((said & truth).sum()) / (int(said.sum()) + int(truth.sum()))
