"""Questions about images, and the regions of their answers, from a file of JSON lines or a folder of masks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import BadImage, ImageSet
from visprobe.data.labels.masks import decode_mask
from visprobe.errors import DataError, UsageError
from visprobe.io.regular import IMAGE, read_regular

_TEXTS = ("prompt", "answer", "rejected")
_FIELDS = ("image", *_TEXTS, "box")
_FORM = 'One JSON object per line: {"image": "a.png", "prompt": "…", "answer": "…"}; "rejected" and "box" as well.'


@dataclass(frozen=True)
class Prompt:
    """Question about an image.

    Attributes:
        text: The question; None if the file has none.
        answer: Answer that is explained.
        rejected: Another answer, for contrast.
        box: Region of the answer: left, top, right and bottom in pixels of the upright image, right and bottom
            exclusive.
    """

    text: str | None = None
    answer: str | None = None
    rejected: str | None = None
    box: tuple[int, int, int, int] | None = None

    def region(self, width: int, height: int) -> NDArray[np.bool_] | None:
        """Return the box as a mask of shape (height, width), or None without a box.

        Raises:
            BadImage: If the box is empty or does not lie inside the image.
        """
        if self.box is None:
            return None
        left, top, right, bottom = self.box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise BadImage(f"the box {[*self.box]} does not lie in the image of {width}x{height}")
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        return mask


def read_prompts(file: Path, images: ImageSet) -> dict[int, list[Prompt]]:
    """Read the questions in `file`, by row of their image, in the order of the lines.

    Args:
        file: JSON lines with "image" (id of an image, or a unique trailing part of its path) and any of "prompt",
            "answer", "rejected" and "box". Several lines may be about one image.
        images: Image set; images without a question are left out.

    Raises:
        UsageError: If there is no such file.
        DataError: If a line is malformed, names no image of the set or has two equal answers, or there is no line.
    """
    if not file.is_file():
        raise UsageError(f"the file of questions {file} does not exist", hint="Check its path.")
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except ValueError as error:
        raise DataError(f"{file} is no text file", hint=_FORM) from error
    rows = _rows_by_name(images)
    found: dict[int, list[Prompt]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, asked = _parsed(line, f"{file}, line {number}")
            if name not in rows:
                raise DataError(
                    f"{file}, line {number}: {images.name} has no one image {name!r}",
                    hint="Name each image by its path below the folder that is given.",
                )
            found.setdefault(rows[name], []).append(asked)
    if not found:
        raise DataError(f"{file} asks nothing", hint=_FORM)
    return dict(sorted(found.items()))


def read_region(folder: Path, image_id: str, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Read the region of an image: the pixels that are not 0 in the mask of its name.

    Args:
        folder: Folder of PNG masks, at the images' paths or, by file name alone, at its top.
        image_id: Id of the image.
        size: Width and height of the upright image.

    Returns:
        bool of shape (height, width); None if there is no mask of this name.

    Raises:
        BadImage: If the mask cannot be decoded or has another size.
    """
    path = PurePosixPath(image_id)
    for inside in (path.with_suffix(".png"), PurePosixPath(path.with_suffix(".png").name)):
        file = folder / inside.relative_to(inside.anchor)
        if file.is_file():
            mask = decode_mask(read_regular(file, IMAGE))
            if mask.shape != size[::-1]:
                raise BadImage(f"the mask is {mask.shape[1]}x{mask.shape[0]}, its image {size[0]}x{size[1]}")
            return mask > 0
    return None


def _rows_by_name(images: ImageSet) -> Mapping[str, int]:
    """Return rows by id, and by every trailing part of a path that only one id has."""
    ends: dict[str, set[int]] = defaultdict(set)
    for row, item in enumerate(images.items):
        parts = PurePosixPath(images.name, item.id).parts  # a split is a folder below the one that was named
        for first in range(len(parts)):
            ends["/".join(parts[first:])].add(row)
    short = {name: next(iter(rows)) for name, rows in ends.items() if len(rows) == 1}
    return {**short, **{item.id: row for row, item in enumerate(images.items)}}


def _parsed(line: str, where: str) -> tuple[str, Prompt]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}", hint=_FORM) from error
    if not isinstance(value, dict) or not isinstance(value.get("image"), str):
        raise DataError(f"{where} names no image", hint=_FORM)
    if unknown := [key for key in value if key not in _FIELDS]:
        raise DataError(f"{where} has an unknown field {unknown[0]!r}", hint=f"Known are {', '.join(_FIELDS)}.")
    if wrong := [key for key in _TEXTS if not isinstance(value.get(key, ""), str)]:
        raise DataError(f"{where}: {wrong[0]!r} is no text", hint=_FORM)
    text, answer, rejected = (value.get(key) for key in _TEXTS)
    if answer and answer == rejected:
        raise DataError(f"{where}: answer and rejected are both {answer!r}", hint="Name two answers, or one.")
    return value["image"], Prompt(text, answer, rejected, _box(value.get("box"), where))


def _box(value: Any, where: str) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    if not (isinstance(value, Sequence) and len(value) == 4 and all(type(number) is int for number in value)):
        raise DataError(f"{where}: 'box' is not four whole numbers", hint='Write "box": [left, top, right, bottom].')
    left, top, right, bottom = value
    return left, top, right, bottom
