"""Data sets with a name of their own, such as the built-in "digits": packages register them by entry point."""

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

ENTRY_POINTS = "visprobe.data"


class NamedData(Protocol):
    """What `--data NAME` stands for, as images and as training rows."""

    def images(self, val: int | None, train: int | None, seed: int) -> dict[str, ImageSet]:
        """The splits "train" and "val", of so many images; None for as many as are usual."""

    def rows(self, count: int | None, seed: int) -> Rows:
        """Training rows, the same ones for the same seed."""

    def answers(self, checkpoints: Mapping[str, Path], count: int, seed: int) -> Any:
        """A `Result`: how many questions about `count` unseen images each checkpoint answers right."""


@runtime_checkable
class HasPrompts(Protocol):
    """Images that come with questions."""

    def prompts(self, index: int) -> Sequence[tuple[Prompt, NDArray[np.bool_] | None]]:
        """What is asked of `items[index]`, each with the pixels (height, width) where the answer lies, if known."""


@runtime_checkable
class HasHeldOut(Protocol):
    """Training rows that know images like theirs on which nothing is trained."""

    def held_out(self, count: int) -> ImageSet:
        """So many of them."""


def named_data(name: str) -> NamedData | None:
    """The data set called `name`, or None if there is none."""
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        data: NamedData = entry.load()
        return data
    return None
