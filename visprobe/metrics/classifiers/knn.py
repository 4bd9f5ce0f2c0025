"""k-nearest-neighbour classification by cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array, Labels
from visprobe.metrics.classifiers.neighbours import nearest_scored

KS = (10, 20, 100, 200)  # values of k that DINO reports
_CHUNK = 1024  # images whose votes are counted at once: with 1000 classes 8 MB
_TIE = 1e-12  # votes closer than this, as a share of the strongest neighbour's, are equal


def knn_classes(
    query: ArrayLike,
    support: ArrayLike,
    support_labels: Labels,
    ks: Sequence[int] = KS,
    temperature: float = 0.07,
    backend: Literal["numpy", "faiss"] = "numpy",
) -> dict[int, Labels]:
    """Classify each image by a vote of its k most similar labelled images, for several k in one search.

    A neighbour of cosine similarity s votes for its class with the weight exp(s / temperature).

    Args:
        query: Features to classify, any real dtype, shape (n, d).
        support: Features of other images, shape (m, d), m >= the largest k.
        support_labels: Class of each support row, int64 of shape (m,), 0 or more.
        ks: Numbers of neighbours.
        temperature: Above 0; the smaller, the more the nearest neighbours count.
        backend: Search by "numpy" or "faiss"; both give the same neighbours.

    Returns:
        Classes for each k, int64 of shape (n,). Of classes with equal votes the smaller index wins; of equally
        similar neighbours those with the smaller index vote.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, a row is zero, or k or the temperature is too small.

    Source:
        Wu et al. 2018 (1805.01978), section 3.4; k and temperature of DINO (2104.14294), appendix F.4.
    """
    _check(support_labels, np.shape(support)[0], ks, temperature)
    found = nearest_scored(query, max(ks), backend, support)
    return {k: _vote(support_labels[found[0][:, :k]], found[1][:, :k], temperature) for k in ks}


def knn_classes_leaving_one_out(
    features: ArrayLike,
    labels: Labels,
    ks: Sequence[int] = KS,
    temperature: float = 0.07,
    backend: Literal["numpy", "faiss"] = "numpy",
) -> dict[int, Labels]:
    """Classify each image by a vote of its k most similar other images of the same set.

    Args:
        features: Any real dtype, shape (n, d), n > the largest k.
        labels: Class of each row, int64 of shape (n,), 0 or more.
        ks: Numbers of neighbours.
        temperature: Above 0; a neighbour of cosine similarity s votes with the weight exp(s / temperature).
        backend: Search by "numpy" or "faiss"; both give the same neighbours.

    Returns:
        Classes for each k, int64 of shape (n,); ties go as in `knn_classes`.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, a row is zero, or k or the temperature is too small.
    """
    _check(labels, np.shape(features)[0], ks, temperature)
    found = nearest_scored(features, max(ks), backend)
    return {k: _vote(labels[found[0][:, :k]], found[1][:, :k], temperature) for k in ks}


def _vote(labels: Labels, similar: Array, temperature: float) -> Labels:
    # Relative to the most similar neighbour, or exp would overflow at a small temperature.
    weights = np.exp((similar - similar[:, :1]) / temperature)
    classes = np.empty(len(labels), dtype=np.int64)
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        votes = np.zeros((len(labels[part]), int(labels.max()) + 1))
        np.add.at(votes, (np.arange(len(votes))[:, None], labels[part]), weights[part])
        classes[part] = (votes >= votes.max(1, keepdims=True) - _TIE).argmax(1)
    return classes


def _check(labels: Labels, n: int, ks: Sequence[int], temperature: float) -> None:
    if labels.shape != (n,) or not n or labels.min() < 0:
        raise ValueError(f"labels must be {n} classes from 0 on, got shape {labels.shape}")
    if not ks or min(ks) < 1 or temperature <= 0:
        raise ValueError(f"k must be 1 or more and the temperature above 0, got {list(ks)} and {temperature}")
