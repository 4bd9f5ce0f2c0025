"""Targets and captions of a folder's images, from the metadata.csv or metadata.jsonl in it.

Source: the imagefolder convention of Hugging Face datasets: a column file_name, and what is known of each image.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visprobe.data.annotated import Targets
from visprobe.data.columns import CAPTIONS, as_captions
from visprobe.errors import DataError

NAMES = ("metadata.csv", "metadata.jsonl")
CLASS = "label"  # a class is no target: it comes from --labels
_HINT = "Each image needs one row, with its path in the column file_name."


@dataclass(frozen=True)
class Metadata:
    """What a metadata file says of a folder's images.

    Attributes:
        targets: "labels" if all columns of numbers hold 0 and 1 only, else "numbers"; None without such a column.
        captions: Captions of every image; None without such a column.
        notes: What the file lacks, has too much, or is not used for.
    """

    targets: Targets | None
    captions: tuple[tuple[str, ...], ...] | None
    notes: tuple[str, ...]


def read_metadata(folder: Path, paths: Sequence[str]) -> Metadata:
    """What the metadata file in `folder`, if there is one, says of the images `paths`, which are relative to it.

    Raises:
        DataError: If there are two such files, or one cannot be read or lists an image twice.
    """
    files = [folder / name for name in NAMES if (folder / name).is_file()]
    if not files:
        return Metadata(None, None, ())
    if len(files) > 1:
        raise DataError(f"{folder} holds both {' and '.join(NAMES)}", hint="Keep one of them.")
    rows = _by_image(files[0])
    known = [rows.get(path, {}) for path in paths]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    caption = next((column for column in CAPTIONS if column in columns), None)
    numbers = {c: values for c in columns if c not in (caption, CLASS) and (values := _numbers(known, c)) is not None}
    unused = [column for column in columns if column not in numbers and column != caption]
    return Metadata(
        targets=_targets(numbers),
        captions=tuple(as_captions(row.get(caption)) for row in known) if caption else None,
        notes=_notes(files[0], rows, paths, unused),
    )


def _by_image(file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(_rows(file), start=1):
        name = row.pop("file_name", None)
        if not isinstance(name, str):
            raise DataError(f"{file}: row {number} has no file_name", hint=_HINT)
        name = name.removeprefix("./")
        if name in found:
            raise DataError(f"{file} lists {name} twice", hint=_HINT)
        found[name] = row
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix == ".jsonl":
            return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if any(None in row or None in row.values() for row in rows):  # how the library marks too many and too few
            raise ValueError("a row has more or fewer fields than the header")
        return rows
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}", hint=_HINT) from error


def _numbers(rows: Sequence[Mapping[str, Any]], column: str) -> list[float] | None:
    """A column as numbers, NaN where it is empty; None if it holds anything else, or nothing."""
    values = []
    for row in rows:
        cell = row.get(column)
        try:
            values.append(math.nan if cell in (None, "") else float(cell))
        except (TypeError, ValueError):
            return None
    return None if all(math.isnan(value) for value in values) else values


def _targets(numbers: Mapping[str, list[float]]) -> Targets | None:
    if not numbers:
        return None
    values = np.array(list(numbers.values()), np.float64).T
    binary = bool(np.isin(values[~np.isnan(values)], (0.0, 1.0)).all())
    return Targets(tuple(numbers), values, "labels" if binary else "numbers")


def _notes(file: Path, rows: Mapping[str, Any], paths: Sequence[str], unused: Sequence[str]) -> tuple[str, ...]:
    here = set(paths)
    absent = [name for name in rows if name not in here]
    unlisted = [path for path in paths if path not in rows]
    notes = []
    if absent:
        notes.append(f"{file.name} lists {len(absent)} of {len(rows)} images that are not there, first {absent[0]}")
    if unlisted:
        notes.append(f"{file.name} does not list {len(unlisted)} of {len(paths)} images, first {unlisted[0]}")
    if CLASS in unused:
        notes.append(f"the column {CLASS} of {file.name} is no target; --labels {file.name} makes it the class")
    if others := [column for column in unused if column != CLASS]:
        notes.append(f"columns of {file.name} that hold no numbers are not used: {', '.join(others)}")
    return tuple(notes)
