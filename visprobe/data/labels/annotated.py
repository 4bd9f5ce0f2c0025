"""What images may carry beside a class: targets, masks, captions and readable class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import ImageSet


@dataclass(frozen=True)
class Targets:
    """Several things to predict of every image.

    Attributes:
        names: Name of each target.
        values: float64 of shape (n images, k targets), NaN where missing.
        kind: "labels": each is 0 or 1 by itself (multi-label); "numbers": real numbers (regression).
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    kind: Literal["labels", "numbers"]

    def rows(self, indices: Sequence[int]) -> Targets:
        """The targets of some of the images, in the order of `indices`."""
        return replace(self, values=self.values[np.asarray(indices, np.intp)])


@runtime_checkable
class HasTargets(Protocol):
    """Images with several targets each, in the order of `items`."""

    @property
    def targets(self) -> Targets:
        """The targets of all images."""


@runtime_checkable
class HasMasks(Protocol):
    """Images whose every pixel has a class."""

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the pixel classes, in the order of their numbers."""

    @property
    def ignored(self) -> int:
        """Number in the masks of pixels that count for no class, such as 255."""

    def mask(self, index: int) -> NDArray[np.int64]:
        """Pixel classes of `items[index]`, of shape (height, width) of the decoded image.

        Raises:
            BadImage: If the mask cannot be decoded.
            OSError: If it cannot be read.
        """


@runtime_checkable
class HasCaptions(Protocol):
    """Images with one or more captions each, in the order of `items`."""

    @property
    def captions(self) -> Sequence[tuple[str, ...]]:
        """The captions of all images; an empty tuple where an image has none."""


@runtime_checkable
class HasTitles(Protocol):
    """Images whose classes have readable names beside their ids."""

    @property
    def class_titles(self) -> tuple[str, ...] | None:
        """Readable name of every class, in the order of `classes`; None if none is known."""


def no_classes(images: ImageSet) -> str:
    """That images have no classes and, where it is known, why, as one sentence without a full stop."""
    why = getattr(images, "why_no_classes", "")
    return f"{images.name} has no classes" + (f": {why}" if why else "")
