"""The strength of a probe's penalty, chosen inside the training images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Indices, Labels
from visprobe.metrics.classifiers.calibration import log_losses
from visprobe.metrics.classifiers.logistic import TOLERANCE, Fit, logistic_fits, prepared
from visprobe.metrics.classifiers.newton import Path

_PATIENCE = 4  # values of C after that of the least held-out loss, until a path is left


class AtBoundary(UserWarning):
    """The best C is the first or last that was tried: a better one may lie outside."""


class Selection(NamedTuple):
    """A fit on all of the training images at the C that was best on a held-out part of them.

    Attributes:
        fit: At the chosen C.
        cs: What was tried, rising.
        accuracies: On the held-out part for each C, in [0, 1].
        boundary: Whether the chosen C is the first or last that could be tried.
    """

    fit: Fit
    cs: tuple[float, ...]
    accuracies: tuple[float, ...]
    boundary: bool


class Best(NamedTuple):
    """The fit of a path that scored best.

    Attributes:
        fit: Of equally good ones that of the smallest C.
        scores: Of the fits that were made, in order.
        boundary: Whether it is the first or last of the grid.
    """

    fit: Fit
    scores: tuple[float, ...]
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
        cs: As `logistic_path`; of equally accurate ones the smallest is chosen. The path is left four
            after the one of the least held-out log loss: from there on it learns its images by heart.
        held_out: Share of each class that is held out, rounded, at least one image and not all.
        seed: Of the split.
        tolerance: As `logistic_path`.
        device: As `logistic_path`.

    Raises:
        ValueError: As `logistic_path`, or if a class has fewer than two images.
    """
    kept, out = stratified_split(labels, held_out, seed)
    order = np.concatenate([kept, out])
    return select_prepared(prepared(np.asarray(features)[order], device), labels[order], len(kept), cs, tolerance)


def select_prepared(
    path: Path, labels: Labels, kept: int, cs: Sequence[float], tolerance: float = TOLERANCE
) -> Selection:
    """`select_c` of features that `logistic.prepared` made ready, the held-out ones last.

    Args:
        path: Of the training images.
        labels: As `select_c`, in the order of the path's rows.
        kept: How many rows are not held out.
        cs: As `select_c`.
        tolerance: As `select_c`.
    """
    rows = path.features[kept:].cpu().numpy()
    fits = logistic_fits(path.first(kept), labels[:kept], cs, tolerance)

    def score(fit: Fit) -> tuple[float, float]:
        right = fit.classes(rows) == labels[kept:]
        return float(right.mean()), float(log_losses(fit.logits(rows), labels[kept:]).mean())

    best = best_of(fits, score, cs)
    fit = next(logistic_fits(path, labels, [best.fit.c], tolerance, best.fit))
    return Selection(fit, tuple(cs[: len(best.scores)]), best.scores, best.boundary)


def best_of(fits: Iterable[Fit], score: Callable[[Fit], tuple[float, float]], cs: Sequence[float]) -> Best:
    """The fit of a path with the highest score, without the end of the path where the loss has long been rising.

    Args:
        fits: One for each C, made as they are asked for.
        score: Score, higher for better, and loss on images that the fits have not seen.
        cs: The grid.
    """
    best, scores, losses = None, list[float](), list[float]()
    for fit in fits:
        own, loss = score(fit)
        if best is None or own > max(scores):
            best = fit
        scores.append(own)
        losses.append(loss)
        if len(losses) - losses.index(min(losses)) > _PATIENCE:
            break
    assert best is not None  # a path has at least one C
    boundary = best.c in (cs[0], cs[-1])
    if boundary:
        warnings.warn(f"the best C, {best.c:g}, is at the end of the grid", AtBoundary, stacklevel=3)
    return Best(best, tuple(scores), boundary)


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
