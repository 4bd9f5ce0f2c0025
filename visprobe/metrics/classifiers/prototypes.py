"""Nearest-prototype classification, each image tried on prototypes that do not contain it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array, Labels

_CHUNK = 4096  # rows scored at once: 4096 x 1000 classes are 33 MB

# Scores closer than this are equal: they come from two formulas, and a collapsed encoder makes all of them equal.
_TIE = 1e-12


def ranks_from_support(query: ArrayLike, labels: Labels, support: ArrayLike, support_labels: Labels) -> Labels:
    """Rank the true class among cosine similarities to prototypes from a disjoint support set.

    A prototype is the mean of the L2-normalised features of a class, normalised again.

    Args:
        query: Features to classify, any real dtype, shape (n, d).
        labels: True class of each query row, int64 of shape (n,), in 0..classes-1.
        support: Features of other images, shape (m, d).
        support_labels: Class of each support row, shape (m,); every class 0..max must occur.

    Returns:
        int64 of shape (n,): 0 where the true class has the highest score, 4 where it is fifth. Of classes with
        equal scores the one with the smaller index comes first.

    Raises:
        ValueError: If a class has no support, or a query label is not among the support's classes.
    """
    sums = _class_sums(support, support_labels)
    if labels.size and (labels.min() < 0 or labels.max() >= len(sums)):
        raise ValueError("a query label has no prototype")
    prototypes = _unit_rows(sums)
    ranks = [_ranks(rows @ prototypes.T, labels[part]) for part, rows in _unit_chunks(query)]
    return np.concatenate(ranks)


def ranks_leaving_one_out(features: ArrayLike, labels: Labels, query: ArrayLike | None = None) -> Labels:
    """Rank the true class with the image itself taken out of its class's prototype.

    With S the sum of the normalised features of the own class and x the image's own, the score against the
    prototype without the image is (x.S - x.x) / |S - x|, where |S - x|^2 = |S|^2 - 2 x.S + x.x; of a changed copy q
    it is (q.S - q.x) / |S - x|.

    Args:
        features: Any real dtype, shape (n, d).
        labels: Class of each row, int64 of shape (n,); every class 0..max must occur at least twice.
        query: Features of changed copies of the same images, row by row, to be ranked in their place; shape (n, d).

    Returns:
        int64 of shape (n,): 0 where the true class has the highest score; ties go to the smaller index.

    Raises:
        ValueError: If a class has fewer than two images.
    """
    sums = _class_sums(features, labels)
    if np.bincount(labels).min() < 2:
        raise ValueError("leave-one-out needs at least two images of each class")
    prototypes, squared = _unit_rows(sums), np.einsum("ij,ij->i", sums, sums)
    ranks = []
    asked = _unit_chunks(features if query is None else query)
    for (part, rows), (_, copies) in zip(_unit_chunks(features), asked, strict=True):
        own, every = labels[part], np.arange(len(rows))
        scores = copies @ prototypes.T
        own_sum, own_square = np.einsum("ij,ij->i", rows, sums[own]), np.einsum("ij,ij->i", rows, rows)
        copy_sum, copy_product = np.einsum("ij,ij->i", copies, sums[own]), np.einsum("ij,ij->i", copies, rows)
        # Rounding may take a squared length below 0; where the others of a class cancel, the score is 0.
        length = np.sqrt(np.maximum(squared[own] - 2 * own_sum + own_square, 0.0))
        scores[every, own] = np.divide(copy_sum - copy_product, length, out=np.zeros(len(rows)), where=length > _TIE)
        ranks.append(_ranks(scores, own))
    return np.concatenate(ranks)


def _ranks(scores: Array, labels: Labels) -> Labels:
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = scores > own + _TIE
    tied = np.abs(scores - own) <= _TIE
    before = np.arange(scores.shape[1]) < labels[:, None]
    ranks: Labels = (ahead | (tied & before)).sum(1).astype(np.int64)
    return ranks


def _class_sums(features: ArrayLike, labels: Labels) -> Array:
    if not labels.size or labels.min() < 0 or not np.bincount(labels).all():
        raise ValueError("every class from 0 to the largest label must have an image")
    sums = np.zeros((int(labels.max()) + 1, np.shape(features)[1]))
    for part, rows in _unit_chunks(features):
        np.add.at(sums, labels[part], rows)
    return sums


def _unit_chunks(features: ArrayLike) -> Iterator[tuple[slice, Array]]:
    array = np.asarray(features)
    for start in range(0, len(array), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield part, _unit_rows(array[part].astype(np.float64))


def _unit_rows(rows: Array) -> Array:
    # Divided by the largest entry first, so that squares of 1e-200 and 1e200 neither vanish nor overflow.
    largest = np.abs(rows).max(1, keepdims=True, initial=0.0)
    scaled = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    units: Array = np.divide(scaled, norms, out=np.zeros_like(rows), where=norms > 0)
    return units
