"""Choice of C, the inverse strength of a probe's penalty, inside the training images."""

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

_PATIENCE = 4  # values of C past the least held-out loss before a path is abandoned


class AtBoundary(UserWarning):
    """Warning that the best C is the first or last of the grid: a better one may lie outside."""


class Selection(NamedTuple):
    """Fit on all training images at the C that was best on a held-out part of them.

    Attributes:
        fit: Fit at the chosen C.
        cs: Values of C that were tried, rising.
        accuracies: Held-out accuracy for each C, in [0, 1].
        boundary: True if the chosen C is the first or last of the grid.
    """

    fit: Fit
    cs: tuple[float, ...]
    accuracies: tuple[float, ...]
    boundary: bool


class Best(NamedTuple):
    """Best-scoring fit of a path.

    Attributes:
        fit: The fit; of equal scores that of the smallest C.
        scores: Scores of the fits that were made, in order of C.
        boundary: True if its C is the first or last of the grid.
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
        features: Training images only, any floating dtype, shape (n, d).
        labels: Class of each row, int64 of shape (n,); two images of each class at least.
        cs: Grid, positive and rising; of equally accurate values the smallest is chosen. The path is left four values
            after that of the least held-out log loss: from there on the probe memorises its images.
        held_out: Share of each class that is held out, rounded, at least one image and not all.
        seed: Seed of the split.
        tolerance: Bound on `Fit.gradient`.
        device: Torch device to compute on.

    Returns:
        The fit on all images, with what was tried.

    Raises:
        ValueError: If shapes do not fit, a feature is not finite, `cs` does not rise, or a class has one image.
    """
    kept, out = stratified_split(labels, held_out, seed)
    order = np.concatenate([kept, out])
    return select_prepared(prepared(np.asarray(features)[order], device), labels[order], len(kept), cs, tolerance)


def select_prepared(
    path: Path, labels: Labels, kept: int, cs: Sequence[float], tolerance: float = TOLERANCE
) -> Selection:
    """Choose C as `select_c` does, on features from `logistic.prepared` with the held-out rows last.

    Args:
        path: Features of the training images.
        labels: Class of each row of the path, int64 of shape (n,).
        kept: Number of rows that are not held out.
        cs: Grid, positive and rising.
        tolerance: Bound on `Fit.gradient`.

    Returns:
        The fit on all images, with what was tried.
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
    """Return the fit with the highest score, leaving the path where the loss has long been rising.

    Args:
        fits: One for each C, made as they are asked for.
        score: Score, higher for better, and loss of a fit on images that it has not seen.
        cs: The grid.

    Returns:
        The best fit; it warns `AtBoundary` where that is at an end of the grid.
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
    """Return sorted indices of the kept and of the held-out images, the same share of every class.

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
