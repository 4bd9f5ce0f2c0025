"""Columns of a table beside its images: which hold a class, targets or captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.data.annotated import Targets
from visprobe.errors import DataError

CAPTIONS = ("caption", "captions", "text")


def labels_of(
    features: Mapping[str, Any], column_of: Callable[[str], Sequence[Any]], name: str
) -> tuple[list[int], tuple[str, ...] | None]:
    """Class numbers and class names from the column "label", or else the first of named classes.

    Args:
        features: Type of every column, of the datasets library.
        column_of: From a column's name to its values.
        name: Name of the set, for messages.

    Returns:
        One number per row and the names; an empty list and None if there is no such column or no row has a label.

    Raises:
        DataError: If only some of the rows have a label.
    """
    import datasets

    named = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    column = "label" if "label" in features else (named[0] if named else None)
    if column is None:
        return [], None
    kind, values = features[column], list(column_of(column))
    missing = sum(value in (None, -1) for value in values)
    if missing == len(values):  # test splits are often published so
        return [], None
    if missing:
        raise DataError(
            f"{missing} of {len(values)} images of {name} have no {column}",
            hint="Remove those rows or the column; without the column the images count as unlabelled.",
        )
    if isinstance(kind, datasets.ClassLabel):
        return values, tuple(kind.names)
    classes = sorted_classes({str(value) for value in values})
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers[str(value)] for value in values], classes


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Class names in order: by number if all are numbers, else by letter."""
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def targets_of(
    features: Mapping[str, Any], column_of: Callable[[str], Sequence[Any]]
) -> tuple[Targets | None, tuple[str, ...]]:
    """Targets from a column of lists of named classes ("labels"), or else from all float columns ("numbers").

    Returns:
        The targets, or None if there is no such column; and the names of columns that were left for another's sake.
    """
    import datasets

    lists = [
        column
        for column, kind in features.items()
        if isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.ClassLabel)
    ]
    floats = [column for column, kind in features.items() if getattr(kind, "dtype", "").startswith("float")]
    if lists:
        first, *others = lists
        names = tuple(features[first].feature.names)
        return Targets(names, _several_hot(column_of(first), len(names)), "labels"), (*others, *floats)
    if floats:
        return Targets(tuple(floats), np.stack([_numbers(column_of(c)) for c in floats], 1), "numbers"), ()
    return None, ()


def captions_of(
    features: Mapping[str, Any], column_of: Callable[[str], Sequence[Any]]
) -> tuple[tuple[str, ...], ...] | None:
    """Captions from the first column of strings or lists of strings called caption, captions or text."""
    for column in CAPTIONS:
        kind = features.get(column)
        cell = getattr(kind, "feature", kind)  # of a list, what it holds
        if getattr(cell, "dtype", "") in ("string", "large_string"):
            return tuple(as_captions(value) for value in column_of(column))
    return None


def as_captions(value: Any) -> tuple[str, ...]:
    """The captions in a cell that holds one, several or none."""
    texts = [value] if isinstance(value, str) else value or []
    return tuple(text for text in texts if isinstance(text, str) and text.strip())


def _several_hot(rows: Sequence[Any], count: int) -> NDArray[np.float64]:
    values = np.zeros((len(rows), count))
    for number, row in enumerate(rows):
        if row is None:
            values[number] = np.nan
        else:
            values[number, list(row)] = 1
    return values


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], np.float64)
