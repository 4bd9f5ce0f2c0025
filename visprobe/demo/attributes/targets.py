"""Attributes of digit scenes, of a whole scene or a quarter of it, each with one answer out of a few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visprobe.data.image_set import ImageSet
from visprobe.data.subset import Subset
from visprobe.demo.scenes import CELLS, COLOURS, DigitScenes, PlacedDigit, Scene
from visprobe.errors import DataError
from visprobe.metrics.arrays import Labels

NONE = -1  # no answer: the question does not apply to the scene
_COLOURS = tuple(COLOURS)
_DIGITS = tuple(str(digit) for digit in range(10))
_COUNTS = ("1", "2", "3", "4")
_LARGE_SUM = 10


@dataclass(frozen=True)
class Attribute:
    """Question with one right answer for each scene.

    Attributes:
        name: Name in tables.
        classes: Possible answers.
        of: Returns the index of a scene's answer, or `NONE`.
    """

    name: str
    classes: tuple[str, ...]
    of: Callable[[Scene], int]


@dataclass(frozen=True)
class QuarterAttribute:
    """`Attribute` of a quarter; `of` takes the digit in the quarter, or None for an empty one."""

    name: str
    classes: tuple[str, ...]
    of: Callable[[PlacedDigit | None], int]


def _in(scene: Scene, cell: str) -> PlacedDigit | None:
    return next((digit for digit in scene.digits if digit.cell == cell), None)


def _digit(placed: PlacedDigit | None) -> int:
    return placed.digit if placed else NONE


def _colour(placed: PlacedDigit | None) -> int:
    return _COLOURS.index(placed.colour) if placed else NONE


def _cell(placed: PlacedDigit | None) -> int:
    return CELLS.index(placed.cell) if placed else NONE


def _coloured(scene: Scene, colour: str) -> PlacedDigit | None:
    return next((digit for digit in scene.digits if digit.colour == colour), None)


ATTRIBUTES = (
    Attribute("digit of the largest", _DIGITS, lambda scene: _digit(scene.digits[0])),
    Attribute("colour of the largest", _COLOURS, lambda scene: _colour(scene.digits[0])),
    Attribute("place of the largest", CELLS, lambda scene: _cell(scene.digits[0])),
    Attribute("digit top-left", _DIGITS, lambda scene: _digit(_in(scene, "top-left"))),
    Attribute("colour top-left", _COLOURS, lambda scene: _colour(_in(scene, "top-left"))),
    Attribute("place of the red one", CELLS, lambda scene: _cell(_coloured(scene, "red"))),
    Attribute("how many", _COUNTS, lambda scene: len(scene.digits) - 1),
    Attribute("sum 10 or more", ("no", "yes"), lambda scene: int(sum(d.digit for d in scene.digits) >= _LARGE_SUM)),
)
QUARTER_ATTRIBUTES = (
    QuarterAttribute("digit in a quarter", _DIGITS, _digit),
    QuarterAttribute("colour in a quarter", _COLOURS, _colour),
    QuarterAttribute("anything in a quarter", ("no", "yes"), lambda placed: int(placed is not None)),
)


def scenes_of(images: ImageSet) -> dict[str, Scene]:
    """Return the scenes by item id.

    Raises:
        DataError: If the images are not digit scenes.
    """
    scenes, indices = images, tuple(range(len(images.items)))
    while isinstance(scenes, Subset):
        indices, scenes = tuple(scenes.indices[index] for index in indices), scenes.whole
    if not isinstance(scenes, DigitScenes):
        raise DataError(
            f"{images.name}: colours, places and sizes of what is seen are known of the built-in scenes alone",
            hint="Use --data digits.",
        )
    return {scenes.items[index].id: scenes.scene(index) for index in indices}


def labels_of(attribute: Attribute | QuarterAttribute, scenes: list[Scene]) -> Labels:
    """Return answers, int64 of shape (n,), or (n, 4) for the quarters in the order of `CELLS`."""
    if isinstance(attribute, QuarterAttribute):
        return np.array([[attribute.of(_in(scene, cell)) for cell in CELLS] for scene in scenes], np.int64)
    return np.array([attribute.of(scene) for scene in scenes], np.int64)
