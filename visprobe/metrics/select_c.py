"""The strength of a probe's penalty, chosen inside the training images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.jackknife import Indices
from visprobe.metrics.logistic import TOLERANCE, Fit, Labels, logistic_path


class AtBoundary(UserWarning):
    """The best C is the first or last that was tried: a better one may lie outside."""


class Selection(NamedTuple):
    """A fit on all of the training images at the C that was best on a held-out part of them.

    Attributes:
        fit: At the chosen C.
        cs: What was tried, rising.
        accuracies: On the held-out part for each C, in [0, 1].
        boundary: Whether the chosen C is the first or last of `cs`.
    """

    fit: Fit
    cs: tuple[float, ...]
    accuracies: tuple[float, ...]
    boundary: bool


def select_c(
    features: ArrayLike,
    labels: Labels,
    cs: Sequence[float],
    held_out: float = 0.2,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    device: str = "cpu",
) -> Selection:
    """Choose C on a held-out part of the training images, then fit all of them at it.

    Args:
        features: As `logistic_path`; no image that the probe is tested on.
        labels: As `logistic_path`; two images of each class at least.
        cs: As `logistic_path`; of equally accurate ones the smallest is chosen.
        held_out: Share of each class that is held out, rounded, at least one image and not all.
        seed: Of the split.
        tolerance: As `logistic_path`.
        device: As `logistic_path`.

    Raises:
        ValueError: As `logistic_path`, or if a class has fewer than two images.
    """
    array = np.asarray(features)
    kept, out = stratified_split(labels, held_out, seed)
    path = logistic_path(array[kept], labels[kept], cs, tolerance, device)
    accuracies = tuple(float((fit.classes(array[out]) == labels[out]).mean()) for fit in path)
    best = int(np.argmax(accuracies))
    boundary = best in (0, len(cs) - 1)
    if boundary:
        warnings.warn(f"the best C, {cs[best]:g}, is at the end of the grid", AtBoundary, stacklevel=2)
    fit = logistic_path(array, labels, [cs[best]], tolerance, device, path[best])[0]
    return Selection(fit, tuple(cs), accuracies, boundary)


def stratified_split(labels: Labels, held_out: float, seed: int) -> tuple[Indices, Indices]:
    """Sorted indices of the kept and of the held-out images, the same share of every class.

    Raises:
        ValueError: If a class has fewer than two images or `held_out` is not within 0..1.
    """
    if not 0 < held_out < 1 or np.bincount(labels).min() < 2:
        raise ValueError("a split needs 0 < held_out < 1 and two images of each class")
    order = np.random.default_rng(seed).permutation(len(labels))
    out = np.zeros(len(labels), dtype=bool)
    for one in range(int(labels.max()) + 1):
        own = order[labels[order] == one]
        out[own[: min(max(round(held_out * len(own)), 1), len(own) - 1)]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)
