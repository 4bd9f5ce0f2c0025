"""Data sets with a registered name, such as the built-in "digits"; packages register them by entry point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import ImageSet
from visprobe.data.prompts import Prompt
from visprobe.data.rows import Rows
from visprobe.io.plug_ins import load_plug_in

ENTRY_POINTS = "visprobe.data"


class NamedData(Protocol):
    """Data set behind `--data NAME`, as images and as training rows."""

    def images(self, val: int | None, train: int | None, seed: int) -> dict[str, ImageSet]:
        """Return the splits "train" and "val" with these numbers of images; None for the usual number."""

    def rows(self, count: int | None, seed: int) -> Rows:
        """Return training rows, the same for the same seed."""

    def answers(self, checkpoints: Mapping[str, Path], count: int, seed: int) -> Any:
        """Return a `Result`: each checkpoint's accuracy on questions about `count` unseen images."""


@runtime_checkable
class HasPrompts(Protocol):
    """Images that come with questions."""

    def prompts(self, index: int) -> Sequence[tuple[Prompt, NDArray[np.bool_] | None]]:
        """Return the questions about `items[index]`, each with the answer's pixels (height, width), if known."""


@runtime_checkable
class HasHeldOut(Protocol):
    """Training rows with further images of their kind that are never trained on."""

    def held_out(self, count: int) -> ImageSet:
        """Return `count` of these images."""


def named_data(name: str) -> NamedData | None:
    """Return the data set called `name`, or None if there is none."""
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        data: NamedData = load_plug_in(entry, object, "data set")  # type: ignore[assignment]
        return data
    return None
