"""Features of one image set under one encoder, the input of analyses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visprobe.encoders.baseline import Baseline


def of_tower(site: str) -> bool:
    """Return whether `site` is one of the tower's own, and not of the connector ("projected", "deepstack_1")."""
    return site.startswith(("block_", "final_norm"))


def in_tower(request: str) -> bool:
    """Return whether a request depends on the tower alone; attention heads do too."""
    return request.startswith(("block_", "final_norm", "heads_"))


@runtime_checkable
class _InParts(Protocol):
    def parts(self, request: str) -> Sequence[NDArray[np.floating]]: ...


def parts_of(sites: Mapping[str, NDArray[np.floating]], name: str) -> Sequence[NDArray[np.floating]]:
    """Return the rows of `name` in parts, in order, without reading them from disk; one part if they are in memory."""
    return sites.parts(name) if isinstance(sites, _InParts) else [sites[name]]


class RequestView(Mapping[str, NDArray[np.floating]]):
    """View of some arrays of a mapping, each read when it is asked for."""

    def __init__(self, whole: Mapping[str, NDArray[np.floating]], names: Sequence[str]) -> None:
        if lacking := [name for name in names if name not in whole]:
            raise KeyError(lacking[0])
        self._whole, self._names = whole, dict.fromkeys(names)

    def __getitem__(self, name: str) -> NDArray[np.floating]:
        self._names[name]  # raises KeyError for names outside the view
        return self._whole[name]

    def parts(self, name: str) -> Sequence[NDArray[np.floating]]:
        """Return the rows of `name` in parts, in order: views of files where they lie on disk (`StoredSites.parts`)."""
        self._names[name]
        return parts_of(self._whole, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Rows(Mapping[str, NDArray[np.floating]]):
    """View of some rows of the arrays of a mapping, taken when they are asked for; `rows` must ascend."""

    def __init__(self, whole: Mapping[str, NDArray[np.floating]], rows: NDArray[np.intp]) -> None:
        self._whole, self._rows = whole, rows

    def __getitem__(self, name: str) -> NDArray[np.floating]:
        return self._whole[name][self._rows]

    def parts(self, name: str) -> Sequence[NDArray[np.floating]]:
        """Return the rows of `name` in parts, in order."""
        parts, start = [], 0
        for part in parts_of(self._whole, name):
            own = self._rows[(self._rows >= start) & (self._rows < start + len(part))]
            parts.append(part[own - start])
            start += len(part)
        return parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)


@dataclass(frozen=True)
class FeatureSet:
    """Pooled features, one row per image.

    Attributes:
        encoder: Name of the checkpoint as the user gave it, or of a baseline ("untrained").
        images: Name of the image set.
        item_ids: One id per row; two feature sets are paired by these, never by position.
        labels: Class index per row, int64 of shape (n,), or None for unlabelled images.
        classes: Class names in the order of the labels, or None.
        sites: Request ("block_03", "projected", "heads_02", "block_03:norms") to an array with a row per image,
            float32 of shape (n, d); all tokens ("block_03:tokens") are float16 of shape (n, T, d). Arrays of the store
            are read at each access and not cached: take an array once, and drop it after use.
        consumed: Name of the site that the MLLM reads.
        contents: SHA-256 of each image file, one per row; empty where features were not made from files.
        baseline: Mark of a baseline; None for a checkpoint.
    """

    encoder: str
    images: str
    item_ids: tuple[str, ...]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    sites: Mapping[str, NDArray[np.float32]]
    consumed: str
    contents: tuple[str, ...] = ()
    baseline: Baseline | None = None


def first_of_each(features: FeatureSet) -> NDArray[np.intp]:
    """Return the rows of `features` without copies: the first of images with equal files and classes, in order."""
    classes = [None] * len(features.item_ids) if features.labels is None else features.labels.tolist()
    first: dict[tuple[str, int | None], int] = {}
    for row, key in enumerate(zip(features.contents, classes, strict=True)):
        first.setdefault(key, row)
    return np.array(list(first.values()), dtype=np.intp)


def with_rows(features: FeatureSet, rows: NDArray[np.intp]) -> FeatureSet:
    """Return `features` of some of its images, in the order of `rows`, which is ascending."""
    return replace(
        features,
        item_ids=tuple(features.item_ids[row] for row in rows),
        labels=None if features.labels is None else features.labels[rows],
        sites=Rows(features.sites, rows),
        contents=tuple(features.contents[row] for row in rows) if features.contents else (),
    )
