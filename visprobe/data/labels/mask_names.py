"""Names of the classes of masks, from the lists that lie beside the images."""

from __future__ import annotations

import re
from pathlib import Path

from visprobe.errors import DataError

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
COCO_STUFF_NAMES = tuple(str(number) for number in range(182))  # of the pixel maps: 0 is a person
_NUMBERED = re.compile(r"\s*(\d+)\s*[:,\t ]\s*(.+)")


def stored_names(folder: Path) -> tuple[str, ...] | None:
    """Names of the pixel classes from `classes.txt` (a name per line, in order, or "number: name") or ADE20K's list.

    Args:
        folder: Where the list may lie.

    Returns:
        The names by class number; None if there is no list.

    Raises:
        DataError: If the list is there and cannot be read.
    """
    for name, read in (("objectInfo150.txt", _ade), ("classes.txt", _lines)):
        path = folder / name
        if path.is_file():
            try:
                return read(path.read_text("utf-8"))
            except (ValueError, IndexError) as error:
                raise DataError(f"{path} is no list of class names: {error}", hint="Write one name per line.") from None
    return None


def _ade(text: str) -> tuple[str, ...]:
    """Columns by tabulators: number from 1 up, three others, names; 0 is what has no label."""
    fields = [line.split("\t") for line in text.splitlines() if line.strip()]
    return _by_number({0: "unlabelled", **{int(row[0]): row[4].split(",")[0].strip() for row in fields[1:]}})


def _lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if lines and len(numbered) == len(lines):
        return _by_number({int(match[1]): match[2].strip() for match in numbered})
    return tuple(lines)


def _by_number(names: dict[int, str]) -> tuple[str, ...]:
    return tuple(names.get(number, str(number)) for number in range(max(names) + 1))
