"""Annotations of images beside a class: targets, masks, captions and readable class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import ImageSet


@dataclass(frozen=True)
class Targets:
    """Targets of a set of images, several for each.

    Attributes:
        names: Name of each target.
        values: float64 of shape (n images, k targets), NaN where missing.
        kind: "labels": each is 0 or 1 by itself (multi-label); "numbers": real numbers (regression).
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    kind: Literal["labels", "numbers"]

    def rows(self, indices: Sequence[int]) -> Targets:
        """Return the targets of some images, in the order of `indices`."""
        return replace(self, values=self.values[np.asarray(indices, np.intp)])


@runtime_checkable
class HasTargets(Protocol):
    """Images with several targets each."""

    @property
    def targets(self) -> Targets:
        """Targets of all images, in the order of `items`."""


@runtime_checkable
class HasMasks(Protocol):
    """Images with a class for every pixel."""

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the pixel classes, in the order of their numbers."""

    @property
    def ignored(self) -> int:
        """Value of mask pixels that count for no class, such as 255."""

    def mask(self, index: int) -> NDArray[np.int64]:
        """Return the pixel classes of `items[index]`, of shape (height, width) of the decoded image.

        Raises:
            BadImage: If the mask cannot be decoded.
            OSError: If it cannot be read.
        """


@runtime_checkable
class HasCaptions(Protocol):
    """Images with one or more captions each."""

    @property
    def captions(self) -> Sequence[tuple[str, ...]]:
        """Captions of all images, in the order of `items`; an empty tuple for an image without any."""


@runtime_checkable
class HasTitles(Protocol):
    """Images whose classes have readable names beside their ids."""

    @property
    def class_titles(self) -> tuple[str, ...] | None:
        """Readable name of every class, in the order of `classes`; None if none is known."""


def no_classes(images: ImageSet) -> str:
    """Return that images have no classes and, if known, why, as one sentence without a full stop."""
    why = getattr(images, "why_no_classes", "")
    return f"{images.name} has no classes" + (f": {why}" if why else "")
