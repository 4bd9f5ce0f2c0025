"""IoU, recall, precision and F1 of classes of pixels or patches, with intervals over images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.jackknife import Replicated

Counts = NDArray[np.int64]


class Tallies(NamedTuple):
    """Counts of pixels, or of patches, of each class in each image; each int64 of shape (n, classes).

    Attributes:
        right: Units of the class that are predicted as it.
        predicted: Units predicted as the class.
        truth: Units of the class.
    """

    right: Counts
    predicted: Counts
    truth: Counts


class PerClass(NamedTuple):
    """Scores of each class over all images, float64 of shape (classes,), in [0, 1]; NaN where not defined.

    Attributes:
        precision: Share of what is predicted as the class that is of it.
        recall: Share of the class that is predicted as it.
        f1: Harmonic mean of the two; 0 where a class occurs and is never found.
        iou: Intersection over union of what is of the class and what is predicted as it.
    """

    precision: Array
    recall: Array
    f1: Array
    iou: Array


def per_class(tallies: Tallies) -> PerClass:
    """Compute precision, recall, F1 and IoU of each class over the pixels of all images together."""
    right, predicted, truth = (part.sum(0) for part in tallies)
    both = predicted + truth
    return PerClass(
        precision=_share(right, predicted),
        recall=_share(right, truth),
        f1=_share(2 * right, both),
        iou=_share(right, both - right),
    )


def mean_iou(tallies: Tallies) -> Replicated:
    """Compute the IoU averaged over the classes that occur in the masks, also without each image.

    Returns:
        Values in [0, 1].

    Raises:
        ValueError: If fewer than two images, or those without some one image, have no class.
    """
    return _replicated(tallies, lambda right, predicted, truth: _mean(right, predicted + truth - right, truth))


def macro_recall(tallies: Tallies) -> Replicated:
    """Compute recall averaged over the classes that occur, in [0, 1], also without each image.

    It does not see false positives.

    Raises:
        ValueError: If fewer than two images have a class.
    """
    return _replicated(tallies, lambda right, predicted, truth: _mean(right, truth, truth))


def macro_precision(tallies: Tallies) -> Replicated:
    """Compute precision averaged over the classes that occur, in [0, 1], also without each image.

    A class that is never predicted counts as 0.

    Raises:
        ValueError: If fewer than two images have a class.
    """
    return _replicated(tallies, lambda right, predicted, truth: _mean(right, predicted, truth))


def macro_f1(tallies: Tallies) -> Replicated:
    """Compute F1 averaged over the classes that occur, in [0, 1], also without each image.

    Raises:
        ValueError: If fewer than two images have a class.
    """
    return _replicated(tallies, lambda right, predicted, truth: _mean(2 * right, predicted + truth, truth))


def share_right(tallies: Tallies) -> Replicated:
    """Compute pixel accuracy, in [0, 1], also without each image.

    Raises:
        ValueError: If fewer than two images have a class.
    """
    return _replicated(tallies, lambda right, predicted, truth: _share(right.sum(-1), truth.sum(-1)))


def _replicated(tallies: Tallies, statistic: Callable[[Counts, Counts, Counts], Array]) -> Replicated:
    truth = tallies.truth
    if len(truth) < 2 or (truth.sum() == truth.sum(1)).any():
        raise ValueError("fewer than two of the images have a class to be found")
    totals = [part.sum(0) for part in tallies]
    value = statistic(*totals)
    # Rows of counts broadcast: one call gives the statistic without each image.
    without = statistic(*(total - part for total, part in zip(totals, tallies, strict=True)))
    return Replicated(float(value), without)


def _mean(found: Counts, of: Counts, truth: Counts) -> Array:
    """Return the mean over the last axis of found / of, over the classes that occur."""
    occurs = truth > 0
    shares = np.where(occurs, found / np.maximum(of, 1), 0.0)
    mean: Array = shares.sum(-1) / occurs.sum(-1)
    return mean


def _share(found: Counts, of: Counts) -> Array:
    shares: Array = np.divide(found, of, out=np.full(np.shape(of), np.nan), where=of > 0)
    return shares
