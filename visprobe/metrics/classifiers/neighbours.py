"""Exact nearest neighbours by cosine similarity, with the same result from numpy and faiss."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.matrices import unit_rows

_CHUNK = 1024  # queries scored at once
_SCORES = 2**25  # scores held at once: 268 MB
_GATHERED = 2**25  # numbers of candidates held at once: 268 MB
_DECIMALS = 14  # of similarities: beyond these, equal pairs differ by the order of summation
_SPARE = 16  # extra candidates asked of faiss, whose float32 ranking may be off
_ROUNDING = 2.0**-24  # a float32 dot product of two unit vectors of width d errs by less than (d + 2) times this


def nearest(features: ArrayLike, k: int, backend: Literal["numpy", "faiss"] = "numpy") -> Indices:
    """Find the k most similar other images of every image.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n > k.
        k: Number of neighbours.
        backend: "numpy" or "faiss". Both give the same answer: what faiss finds in float32 is ranked again in
            float64, and rows in which a neighbour could have been missed are searched by numpy. On one core numpy
            took half the time of faiss-cpu at n = 10,000, d = 1,152.

    Returns:
        Indices of shape (n, k), most similar first, never the image itself; of equally similar images the one
        with the smaller index comes first.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, a row is zero, or k < 1.
        ImportError: If faiss is asked for and not installed.
    """
    return nearest_scored(features, k, backend)[0]


def nearest_scored(
    features: ArrayLike, k: int, backend: Literal["numpy", "faiss"] = "numpy", support: ArrayLike | None = None
) -> tuple[Indices, Array]:
    """Find the k most similar images of every image, and their similarities.

    Args:
        features: Any real dtype, shape (n, d), one row per image.
        k: Number of neighbours.
        backend: "numpy" or "faiss"; both give the same result.
        support: Images to search, shape (m, d), m >= k; by default the features themselves, of which no image is
            its own neighbour, n > k.

    Returns:
        Row indices into the support, most similar first, and cosine similarities, both of shape (n, k).

    Raises:
        ValueError: If a shape does not fit, a value is not finite, a row is zero, or k < 1.
        ImportError: If faiss is asked for and not installed.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    search = f"a search for {k} neighbours"
    if support is None:
        units = unit_rows(features, k + 1, search)
        pool = _Pool(units, units, own=True)
    else:
        pool = _Pool(unit_rows(features, 1, search), unit_rows(support, k, search), own=False)
    if pool.queries.shape[1] != pool.units.shape[1]:
        raise ValueError(f"features of width {pool.queries.shape[1]} against {pool.units.shape[1]}")
    return _faiss(pool, k) if backend == "faiss" else _numpy(pool, np.arange(len(pool.queries)), k)


class _Pool(NamedTuple):
    queries: Array  # unit rows
    units: Array  # unit rows to search
    own: bool  # True if query i is row i of the units and must not find itself


def list_length(k: int, n: int) -> int:
    """Return how many neighbours to look up so that a random half of the images holds k of them for every image.

    The chance that it does not is below 1e-12 for each image.
    """
    return min(n - 1, 4 * k + 40)


def first_within(lists: Indices, images: Indices, k: int) -> Indices:
    """Return the positions, in the neighbour lists of a subset, of the k nearest members of that subset.

    Args:
        lists: Neighbours of all n images, nearest first, shape (n, m).
        images: A subset, as distinct indices, shape (s,).
        k: Number of neighbours.

    Returns:
        Columns of `lists[images]`, shape (s, k).

    Raises:
        ValueError: If a list holds fewer than k of the images.
    """
    present = np.zeros(len(lists), dtype=bool)
    present[images] = True
    kept = present[lists[images]]
    if kept.sum(1).min() < k:
        raise ValueError(f"neighbour lists of length {lists.shape[1]} do not hold {k} of {len(images)} images")
    first = kept & (np.cumsum(kept, axis=1, dtype=np.int32) <= k)
    return np.nonzero(first)[1].reshape(len(images), k)


def _numpy(pool: _Pool, wanted: Indices, k: int) -> tuple[Indices, Array]:
    found, similar = np.empty((len(wanted), k), dtype=np.intp), np.empty((len(wanted), k))
    chunk = max(1, min(_CHUNK, _SCORES // len(pool.units)))
    for start in range(0, len(wanted), chunk):
        rows = wanted[start : start + chunk]
        scores = np.round(pool.queries[rows] @ pool.units.T, _DECIMALS)
        if pool.own:
            scores[np.arange(len(rows)), rows] = -np.inf
        found[start : start + chunk] = top = _top(scores, k)
        similar[start : start + chunk] = np.take_along_axis(scores, top, axis=1)
    return found, similar


def _top(scores: Array, k: int) -> Indices:
    """Return the columns of the k largest scores of each row, ties to the smaller column."""
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    top = np.empty((len(scores), k), dtype=np.intp)
    for row, (score, bound) in enumerate(zip(scores, least, strict=True)):
        candidates = np.flatnonzero(score >= bound)
        top[row] = candidates[np.argsort(-score[candidates], kind="stable")[:k]]
    return top


def _faiss(pool: _Pool, k: int) -> tuple[Indices, Array]:
    import faiss

    n, m, width = len(pool.queries), len(pool.units), pool.units.shape[1]
    wanted = min(k + pool.own + _SPARE, m)
    index = faiss.IndexFlatIP(width)
    index.add(np.ascontiguousarray(pool.units, dtype=np.float32))
    found, similar = np.empty((n, k), dtype=np.intp), np.empty((n, k))
    missed = np.zeros(n, dtype=bool)
    chunk = max(1, min(_CHUNK, _GATHERED // (wanted * width)))
    for start in range(0, n, chunk):
        rows = np.arange(start, min(start + chunk, n))
        scores, candidates = index.search(np.ascontiguousarray(pool.queries[rows], dtype=np.float32), wanted)
        # Sorted by index, so that `_top` breaks ties as the numpy search does.
        candidates = np.sort(candidates, axis=1)
        exact = np.round(np.matmul(pool.units[candidates], pool.queries[rows][:, :, None])[:, :, 0], _DECIMALS)
        if pool.own:
            exact[candidates == rows[:, None]] = -np.inf
        order = _top(exact, k)
        found[rows] = np.take_along_axis(candidates, order, axis=1)
        similar[rows] = np.take_along_axis(exact, order, axis=1)
        # A row is in doubt if an image that faiss left out could, within float32 rounding, be as similar as the k-th.
        missed[rows] = (wanted < m) & (similar[rows, -1] <= scores[:, -1] + (width + 2) * _ROUNDING)
    again = np.flatnonzero(missed)
    found[again], similar[again] = _numpy(pool, again, k)
    return found, similar
