"""Measures of patch tokens among the words of a vocabulary: nearest words, lengths, distances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visprobe.metrics.intervals.jackknife import Replicated, replicate_mean

Array = NDArray[np.floating]
Counts = NDArray[np.int64]
_SCORES = 2**25  # similarities held at once: 134 MB


@dataclass(frozen=True)
class Vocabulary:
    """Word embeddings as the language model gets them.

    Attributes:
        rows: Embeddings, float32 of shape (words, d); none is zero.
        tokens: Token id of each word, int64 of shape (words,).
    """

    rows: NDArray[np.float32]
    tokens: Counts


def nearest_words(patches: Array, vocabulary: Vocabulary) -> tuple[Counts, NDArray[np.float32]]:
    """Find the word of largest cosine with each patch.

    Args:
        patches: Any floating dtype, shape (..., d), no row zero.
        vocabulary: Words; of equally near ones the first is taken.

    Returns:
        Token ids, int64, and cosines, float32, both of shape (...).
    """
    queries, words = unit(patches.reshape(-1, patches.shape[-1])), unit(vocabulary.rows)
    found, cosine = np.empty(len(queries), np.int64), np.empty(len(queries), np.float32)
    step = max(1, _SCORES // len(words))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ words.T
        best = scores.argmax(1)
        found[start : start + step] = vocabulary.tokens[best]
        cosine[start : start + step] = np.take_along_axis(scores, best[:, None], 1)[:, 0]
    return found.reshape(patches.shape[:-1]), cosine.reshape(patches.shape[:-1])


def norm_ratio(patches: Array, vocabulary: Vocabulary) -> Replicated:
    """Compute the median length of an image's patch tokens over the median length of words, mean over images.

    Args:
        patches: Shape (n, t, d): t patches of each image.
        vocabulary: Words.

    Returns:
        A ratio >= 0, also without each image.
    """
    words = float(np.median(np.linalg.norm(vocabulary.rows, axis=1)))
    return replicate_mean(np.median(np.linalg.norm(patches.astype(np.float32), axis=-1), axis=1) / words)


def modality_gap(patches: Array, vocabulary: Vocabulary) -> Replicated:
    """Compute the distance between the mean directions of patches and of words, also without each image.

    Args:
        patches: Shape (n, t, d): t patches of each image.
        vocabulary: Words.

    Returns:
        Values in [0, 2].

    Source:
        Liang et al. 2022 (2203.02053), section 2: difference of the centres of unit vectors.
    """
    centre = unit(vocabulary.rows).mean(0, dtype=np.float64)
    means = unit(patches).mean(1, dtype=np.float64)
    total, n = means.sum(0), len(means)
    without = np.linalg.norm((total - means) / (n - 1) - centre, axis=1)
    return Replicated(float(np.linalg.norm(total / n - centre)), without)


def separation(patches: Array, vocabulary: Vocabulary, seed: int) -> Replicated:
    """Compute how well a direction found on other images and words tells patches from words: area under the ROC curve.

    The direction joins the two centres of one half; the other half is scored, and the other way round. On the half
    it was found on, any two sets in many dimensions can be told apart.

    Args:
        patches: Shape (n, t, d): t patches of each image.
        vocabulary: Words.
        seed: Seed of the halves.

    Returns:
        Mean over images in [0, 1]: 0.5 where patches lie among the words, 1 where a plane parts them.
    """
    rng, images, words = np.random.default_rng(seed), unit(patches), unit(vocabulary.rows)
    image_half, word_half = (rng.permutation(len(one)) % 2 for one in (images, words))
    areas = np.empty(len(images))
    for half in (0, 1):
        seen = images[image_half == half].mean((0, 1), dtype=np.float64)
        direction = (seen - words[word_half == half].mean(0, dtype=np.float64)).astype(np.float32)
        ranks = np.sort(words[word_half != half] @ direction)
        scores = images[image_half != half] @ direction
        # Left and right insertion together count ties as half.
        below = np.searchsorted(ranks, scores, "left") + np.searchsorted(ranks, scores, "right")
        areas[image_half != half] = below.mean(1) / (2 * len(ranks))
    return replicate_mean(areas)


def word_variety(nearest: Counts) -> Replicated:
    """Compute the effective number of different nearest words: exponential of the entropy of their counts.

    Args:
        nearest: Token id of each patch's nearest word, shape (n, t).

    Returns:
        A value of 1 or more, also without each image.
    """
    _, index = np.unique(nearest, return_inverse=True)
    index = index.reshape(nearest.shape)
    counts = np.bincount(index.ravel())
    return Replicated(_perplexity(counts), np.fromiter(_left_out(counts, index), np.float64))


def rank_share(patches: Array) -> Replicated:
    """Compute the participation ratio of the patch tokens' covariance over their width.

    Args:
        patches: Shape (n, t, d): t patches of each image.

    Returns:
        Values in (0, 1], also without each image.

    Raises:
        ValueError: If the patches do not vary.

    Source:
        Gao et al. 2017 (bioRxiv 214262), eq. 5. The mean is that of all images also where one is left out.
    """
    n, t, d = patches.shape
    x = patches.reshape(-1, d).astype(np.float64)
    x -= x.mean(0)
    largest = np.abs(x).max()
    if not largest > 1e-6 * np.abs(patches).max():  # means of float32 numbers carry rounding
        raise ValueError("all patches have the same features")
    x /= largest
    scatter = x.T @ x
    parts = x.reshape(n, t, d)
    own = np.einsum("ijk,ijk->i", parts, parts)
    cross = np.einsum("ijk,ijk->i", parts, (x @ scatter).reshape(n, t, d))
    squares = np.array([np.square(part @ part.T).sum() for part in parts])
    whole, trace = float(np.vdot(scatter, scatter)), float(own.sum())
    # |S - P|^2 = |S|^2 - 2 S.P + |P|^2 with P the scatter of one image's patches.
    without = (trace - own) ** 2 / (whole - 2 * cross + squares) / d
    return Replicated(trace**2 / whole / d, without)


def unit(rows: Array) -> NDArray[np.float32]:
    """Divide rows by their L2 norm, in float32.

    Raises:
        ValueError: If a row is zero.
    """
    array = rows.astype(np.float32)
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    if not norms.all():
        raise ValueError("a token is all zero: it has no direction")
    divided: NDArray[np.float32] = array / norms
    return divided


def _left_out(counts: Counts, index: Counts) -> Iterator[float]:
    for own in index:
        yield _perplexity(counts - np.bincount(own, minlength=len(counts)))


def _perplexity(counts: Counts) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
