"""Classes, targets and captions of a folder's images from its metadata.csv or metadata.jsonl.

Source: the imagefolder convention of Hugging Face datasets: a column file_name, and further columns on each image.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visprobe.data.labels.annotated import Targets
from visprobe.data.labels.class_column import (
    Classes,
    NotClassesError,
    Table,
    class_names,
    find_classes,
    is_row_number,
    may_be_class,
    same_name,
)
from visprobe.data.labels.columns import CAPTIONS, as_captions, targets_instead
from visprobe.errors import DataError

NAMES = ("metadata.csv", "metadata.jsonl")
_HINT = "Each image needs one row, with its path in the column file_name."


@dataclass(frozen=True)
class Metadata:
    """Content of a metadata file on a folder's images.

    Attributes:
        classes: Classes of all images (`visprobe.data.labels.class_column`), if the folders are not the classes.
        targets: "labels" if all columns of numbers hold 0 and 1 only, else "numbers"; None without such a column.
        captions: Captions of every image; None without such a column.
        notes: Remarks on missing, superfluous and unused entries.
    """

    classes: Classes
    targets: Targets | None
    captions: tuple[tuple[str, ...], ...] | None
    notes: tuple[str, ...]


def read_metadata(folder: Path, paths: Sequence[str], *, labelled: bool, labels: str | None = None) -> Metadata:
    """Read the metadata file in `folder`, if there is one.

    Args:
        folder: Folder of images.
        paths: Paths of the images, relative to the folder.
        labelled: Whether the images have classes already.
        labels: Column of classes named by the user.

    Raises:
        DataError: If there are two such files, or one cannot be read or lists an image twice.
    """
    files = [folder / name for name in NAMES if (folder / name).is_file()]
    if not files:
        return Metadata(Classes(), None, None, ())
    if len(files) > 1:
        raise DataError(f"{folder} holds both {' and '.join(NAMES)}", hint="Keep one of them.")
    rows = _by_image(files[0])
    known = [rows.get(same_name(path), {}) for path in paths]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    caption = next((column for column in CAPTIONS if column in columns), None)
    others = [column for column in columns if column != caption]
    table = Table(folder.name, paths, others, lambda column: [row.get(column) for row in known])
    classes = Classes() if labelled else _classes(table, labels)
    numbers = {c: values for c in others if not _is_class(table, c) and (values := _numbers(known, c)) is not None}
    instead = None if numbers or classes.of else targets_instead(table, labels)
    said = _notes(files[0], rows, paths)
    used = {caption, classes.column, *numbers, *(filter(may_be_class, others) if instead else ())}
    return Metadata(
        classes=classes,
        targets=_targets(numbers) or instead,
        captions=tuple(as_captions(row.get(caption)) for row in known) if caption else None,
        notes=(*classes.notes, *said, *_unused(files[0], {*others} - used, _instead(classes, labelled))),
    )


def _classes(table: Table, labels: str | None) -> Classes:
    try:
        return find_classes(table, labels)
    except DataError as error:  # some images lack a class; the file may still be there for its targets
        return Classes(why_none=error.message)


def _instead(classes: Classes, labelled: bool) -> str:
    """Return why a column with a usual class name is not the class."""
    if labelled:
        return "the folders are the classes"
    return classes.why_none or f"the classes are the column {classes.column}"


def _is_class(table: Table, column: str) -> bool:
    """Return whether a column has a usual class name and holds classes, so that its numbers are no targets."""
    try:
        return may_be_class(column) and any(class_names(table.column_of(column))[0])
    except NotClassesError:
        return False


def _by_image(file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(_rows(file), start=1):
        name = row.pop("file_name", None)
        if not isinstance(name, str):
            raise DataError(f"{file}: row {number} has no file_name", hint=_HINT)
        name = same_name(name.removeprefix("./"))
        if name in found:
            raise DataError(f"{file} lists {name} twice", hint=_HINT)
        found[name] = {column: cell for column, cell in row.items() if not is_row_number(column)}
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        text = file.read_text("utf-8-sig")
        if file.suffix == ".jsonl":
            return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if any(None in row or None in row.values() for row in rows):  # DictReader's mark for too many or too few
            raise ValueError("a row has more or fewer fields than the header")
        return rows
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}", hint=_HINT) from error


def _numbers(rows: Sequence[Mapping[str, Any]], column: str) -> list[float] | None:
    """Return a column as floats, NaN where empty; None if it holds anything else, or nothing."""
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


def _notes(file: Path, rows: Mapping[str, Any], paths: Sequence[str]) -> tuple[str, ...]:
    here = {same_name(path) for path in paths}
    absent = [name for name in rows if name not in here]
    unlisted = [path for path in paths if same_name(path) not in rows]
    notes = []
    if absent:
        notes.append(f"{file.name} lists {len(absent)} of {len(rows)} images that are not there, first {absent[0]}")
    if unlisted:
        notes.append(f"{file.name} does not list {len(unlisted)} of {len(paths)} images, first {unlisted[0]}")
    return tuple(notes)


def _unused(file: Path, columns: Collection[str], why: str) -> tuple[str, ...]:
    notes = []
    if named := sorted(filter(may_be_class, columns)):
        notes.append(f"{', '.join(named)} of {file.name} may be classes and are not used: {why}")
    if others := sorted(set(columns) - set(named)):
        notes.append(f"columns of {file.name} that hold no numbers are not used: {', '.join(others)}")
    return tuple(notes)
