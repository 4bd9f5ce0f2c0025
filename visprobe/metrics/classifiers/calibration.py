"""Calibration error, Brier score and negative log likelihood of predicted probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array, Indices, Labels
from visprobe.metrics.intervals.half_sampling import Halved, half_splits
from visprobe.metrics.matrices import finite


def probabilities(logits: ArrayLike) -> Array:
    """Return the softmax of logits.

    Args:
        logits: Any real dtype, shape (n, classes), or (n, 1): the logit of class 1 against class 0.

    Returns:
        float64 of shape (n, classes), rows sum to 1; (n, 2) for one column of logits.

    Raises:
        ValueError: If the shape does not fit or a logit is not finite.
    """
    array = finite(logits, 1, "a prediction")
    if array.shape[1] == 1:
        array = np.hstack([np.zeros_like(array), array])
    powers = np.exp(array - array.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares


def calibration_error(chances: ArrayLike, labels: Labels, bins: int = 15, splits: int = 40, seed: int = 0) -> Halved:
    """Compute the expected calibration error: mean gap between confidence and accuracy.

    The images are cut by confidence into bins of equally many, and the absolute differences of mean confidence and
    accuracy are averaged. Even a calibrated classifier has an error of about sqrt(bins / n) / 2 at most.

    Args:
        chances: Probabilities, shape (n, classes), n >= 4.
        labels: True class of each row, int64 of shape (n,).
        bins: Number of bins; at most n / 2.
        splits: Number of random halvings of the images, for the interval.
        seed: Seed of the halvings: equal seeds let two classifiers on the same images be subtracted.

    Returns:
        The error, in [0, 1], with half-samples for its interval.

    Raises:
        ValueError: If shapes do not fit, rows are not probabilities, or there are too few images for the bins.

    Source:
        Naeini et al. 2015 and Guo et al. 2017 (1706.04599), eq. 3; bins of equal mass as in Nguyen & O'Connor 2015.
    """
    array = _checked(chances, labels)
    n = len(array)
    if not 1 <= bins <= n // 2:
        raise ValueError(f"{n} images cannot be halved and cut into {bins} bins")
    highest, right = array.max(1), array.argmax(1) == labels
    # Ties are broken at random: images often come sorted by class, and one class must not fill a bin.
    order = np.lexsort((np.random.default_rng(seed).permutation(n), highest))
    gap = (highest - right)[order]
    rank = np.argsort(order)

    def error(images: Indices) -> float:
        # `rank` orders a subset by confidence as the whole is ordered, without sorting it again for every half.
        inside = gap[np.sort(rank[images])]
        edges = np.arange(bins) * len(inside) // bins
        return float(np.abs(np.add.reduceat(inside, edges)).sum() / len(inside))

    return half_splits(error, n, splits, seed)


def brier_scores(chances: ArrayLike, labels: Labels) -> Array:
    """Compute the squared distance of each row of probabilities from the one-hot truth.

    Args:
        chances: Probabilities, shape (n, classes).
        labels: True class of each row, int64 of shape (n,).

    Returns:
        float64 of shape (n,), in [0, 2].

    Raises:
        ValueError: If shapes do not fit or rows are not probabilities.

    Source:
        Brier 1950, eq. 2: summed over classes. The mean of these is the score; `replicate_mean` gives its interval.
    """
    array = _checked(chances, labels)
    own = array[np.arange(len(array)), labels]
    scores: Array = (array**2).sum(1) - 2 * own + 1
    return np.maximum(scores, 0.0)


def log_losses(logits: ArrayLike, labels: Labels) -> Array:
    """Compute the negative log likelihood of the true class of each row.

    Works from logits, not probabilities, so that a class of probability 1e-400 costs 921 nats, not infinitely many.

    Args:
        logits: Shape (n, classes), or (n, 1): the logit of class 1 against class 0.
        labels: True class of each row, int64 of shape (n,).

    Returns:
        float64 of shape (n,), in nats, 0 or more.

    Raises:
        ValueError: If shapes or labels do not fit, or a logit is not finite.
    """
    array = finite(logits, 1, "a prediction")
    if array.shape[1] == 1:
        array = np.hstack([np.zeros_like(array), array])
    _check_labels(array, labels)
    highest = array.max(1)
    total = np.log(np.exp(array - highest[:, None]).sum(1))
    losses: Array = total + highest - array[np.arange(len(array)), labels]
    return np.maximum(losses, 0.0)


def _checked(chances: ArrayLike, labels: Labels) -> Array:
    array = finite(chances, 1, "a prediction")
    _check_labels(array, labels)
    if array.min() < 0 or np.abs(array.sum(1) - 1).max() > 1e-3:  # float16 rows of 1,000 classes miss 1 by 2e-4
        raise ValueError("rows of probabilities must be 0 or more and sum to 1: are they logits?")
    return array


def _check_labels(array: Array, labels: Labels) -> None:
    if labels.shape != (len(array),) or labels.min() < 0 or labels.max() >= array.shape[1]:
        raise ValueError(f"labels of shape {labels.shape} do not fit predictions of shape {array.shape}")
