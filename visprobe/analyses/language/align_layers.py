"""Neighbours that all sites of an encoder share with all layers of a language model, and their null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.classifiers.neighbours import first_within, list_length, nearest
from visprobe.metrics.intervals.half_sampling import Halved, half_splits
from visprobe.metrics.similarity.neighbour_overlap import neighbours_in_half

SPLITS = 40
DRAWS = 200


def neighbour_lists(layers: Mapping[str, NDArray[np.floating]], k: int) -> dict[str, Indices]:
    """Return the nearest images (cosine) of every image at every layer, enough for random halves."""
    return {name: nearest(layers[name], list_length(k, len(layers[name]))) for name in layers}


def clamped(layers: Mapping[str, NDArray[np.floating]], quantile: float = 0.95) -> dict[str, NDArray[np.floating]]:
    """Clip all layers at one absolute value: the mean over images of a quantile of the absolute features.

    Source:
        The code published with Huh et al. 2024 (2405.07987), which does so before it compares layers.
    """
    arrays = {name: layers[name] for name in layers}
    joined = np.abs(np.concatenate(list(arrays.values()), axis=1))
    bound = np.quantile(joined, quantile, axis=1).mean()
    return {name: np.clip(array, -bound, bound) for name, array in arrays.items()}


@dataclass(frozen=True)
class Pairs:
    """Neighbour lists of the sites and of the language model's layers over the same images.

    Attributes:
        sites: Lists of each site, indices of shape (n, m).
        layers: Lists of each layer, indices of shape (n, m).
        k: Number of neighbours that count.
        seed: Seed of the random halves.
    """

    sites: Mapping[str, Indices]
    layers: Mapping[str, Indices]
    k: int
    seed: int

    @property
    def n(self) -> int:
        """Number of images."""
        return len(next(iter(self.sites.values())))

    def halved(self, site: str, layer: str) -> Halved:
        """Compute mutual kNN of one site and one layer on all images and on random halves."""
        row, column = list(self.sites).index(site), list(self.layers).index(layer)
        return half_splits(lambda images: float(self._within(images)[row, column]), self.n, SPLITS, self.seed)

    @cached_property
    def best(self) -> Halved:
        """Largest mutual kNN over all sites and layers, on all images and on random halves."""
        return half_splits(lambda images: float(self._within(images).max()), self.n, SPLITS, self.seed)

    @cached_property
    def table(self) -> Array:
        """Mutual kNN of all images, shape (sites, layers)."""
        return self._within(np.arange(self.n))

    def _within(self, images: Indices) -> Array:
        if images.tobytes() not in self._known:
            k = self.k if len(images) == self.n else neighbours_in_half(self.k)
            left, right = (self._lists(lists, images, k) for lists in (self.sites, self.layers))
            self._known[images.tobytes()] = _shares(left, right, self.n)
        return self._known[images.tobytes()]

    @cached_property
    # One table per half serves every pair of site and layer.
    def _known(self) -> dict[bytes, Array]:
        return {}

    def _lists(self, lists: Mapping[str, Indices], images: Indices, k: int) -> list[Indices]:
        return [np.take_along_axis(one[images], first_within(one, images, k), 1) for one in lists.values()]

    def null(self, draws: int = DRAWS) -> Array:
        """Compute mutual kNN with captions shuffled over the images, float64 of shape (draws, sites, layers).

        All pairs of a draw share one order, so that the largest of them is a draw of the largest value.
        """
        rng, every = np.random.default_rng(self.seed), np.arange(self.n)
        left, right = (self._lists(lists, every, self.k) for lists in (self.sites, self.layers))
        tables = []
        for _ in range(draws):
            order = rng.permutation(self.n)  # image i is given the caption of image order[i]
            place = np.argsort(order)  # the image that is given the caption of image j is place[j]
            tables.append(_shares(left, [place[ids[order]] for ids in right], self.n))
        return np.stack(tables)


def permutation_p(value: float, null: Array) -> float:
    """Compute the share of draws that reach `value`, itself counted as one, in [1 / (draws + 1), 1].

    Source: Phipson & Smyth 2010.
    """
    return float((1 + (null >= value - 1e-12).sum()) / (1 + len(null)))


def _shares(left: Sequence[Indices], right: Sequence[Indices], n: int) -> Array:
    """Return the mean share of common entries in rows of two sets of lists, shape (len(left), len(right))."""
    rows = np.arange(len(left[0]))[:, None]
    held = np.zeros((len(left), len(rows), n), dtype=bool)
    for one, ids in zip(held, left, strict=True):
        one[rows, ids] = True
    shares: Array = np.stack([held[:, rows, ids].mean((1, 2)) for ids in right], axis=1)
    return shares
