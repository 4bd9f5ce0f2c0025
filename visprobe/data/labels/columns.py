"""Classes, targets and captions from the columns of a table of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import Item
from visprobe.data.labels.annotated import HasTargets, Targets
from visprobe.data.labels.class_column import (
    Classes,
    NotClassesError,
    NumbersError,
    SeveralLabelsError,
    Table,
    candidates,
    class_names,
    find_classes,
    number_in,
    same_name,
    several_in,
    sorted_classes,
)

CAPTIONS = ("caption", "captions", "text")


def classes_of_rows(
    ids: Sequence[str],
    features: Mapping[str, Any],
    column_of: Callable[[str], Sequence[Any]],
    name: str,
    chosen: str | None,
) -> Classes:
    """Find the classes of the rows of a `datasets` table; see `visprobe.data.labels.class_column.find_classes`.

    Args:
        ids: Ids of the images.
        features: `datasets` feature of every column but that of the images.
        column_of: Returns the values of a column.
        name: Name of the set, for messages.
        chosen: Column named by the user.

    Raises:
        DataError: If only some of the rows have a class.
    """
    import datasets

    declared = {
        column: [same_name(one) for one in kind.names]
        for column, kind in features.items()
        if isinstance(kind, datasets.ClassLabel)
    }
    return find_classes(Table(name, ids, list(features), column_of, declared), chosen)


def items_of(ids: Sequence[str], classes: Classes) -> tuple[list[Item], tuple[str, ...] | None]:
    """Return items with class numbers, and the class names in the order of these numbers."""
    if classes.of is None:
        return [Item(one) for one in ids], None
    names = classes.names if classes.names is not None else sorted_classes(set(classes.of))
    numbers = {name: number for number, name in enumerate(names)}
    return [Item(one, numbers[name]) for one, name in zip(ids, classes.of, strict=True)], names


def targets_of(
    features: Mapping[str, Any], column_of: Callable[[str], Sequence[Any]], name: str, chosen: str | None
) -> tuple[Targets | None, tuple[str, ...]]:
    """Read targets from a column of several labels ("labels"), or else from all float columns ("numbers").

    Several labels are lists of named classes, or any column that `targets_instead` accepts.

    Args:
        features: `datasets` feature of every column but that of the images.
        column_of: Returns the values of a column.
        name: Name of the set.
        chosen: Column named by the user.

    Returns:
        Targets, or None if there is no such column; and the names of further columns that were not read.
    """
    import datasets

    named = {
        column: kind.feature.names
        for column, kind in features.items()
        if isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.ClassLabel)
    }
    floats = [column for column, kind in features.items() if getattr(kind, "dtype", "").startswith("float")]
    if named:
        first, *others = named
        return several_labels(column_of(first), named[first]), (*others, *floats)
    instead = targets_instead(Table(name, (), list(features), column_of), chosen)
    if floats and (instead is None or instead.kind == "numbers"):
        return Targets(tuple(floats), np.stack([numbers_of(column_of(c)) for c in floats], 1), "numbers"), ()
    return instead, tuple(floats)


def several_labels(rows: Sequence[Any], names: Sequence[str] | None = None) -> Targets:
    """Turn a column of lists into one target per label.

    Args:
        rows: Lists of labels, or of 0 and 1, one for each label (recognised by rows that repeat a value); None if
            missing.
        names: Names of labels that are numbers; by default the labels themselves.
    """
    there = [row for row in rows if row is not None]
    if names is None and _are_indicators(there):
        values = np.array([[np.nan] * len(there[0]) if row is None else row for row in rows], np.float64)
        return Targets(tuple(map(str, range(values.shape[1]))), values, "labels")
    if names is not None:
        labels = [row if row is None else [names[label] for label in row] for row in rows]
    else:
        labels = [row if row is None else [str(label) for label in row] for row in rows]
        names = sorted_classes(set(chain.from_iterable(row for row in labels if row is not None)))
    numbers = {name: number for number, name in enumerate(names)}
    values = np.zeros((len(rows), len(numbers)))
    for number, row in enumerate(labels):
        if row is None:
            values[number] = np.nan
        else:
            values[number, [numbers[label] for label in row]] = 1
    return Targets(tuple(numbers), values, "labels")


def share_labels(sets: Sequence[Any]) -> None:
    """Give all splits the labels of each; a label that does not occur in a split is 0 for its images."""
    labelled = [images for images in sets if isinstance(images, HasTargets) and images.targets.kind == "labels"]
    names = tuple(dict.fromkeys(name for images in labelled for name in images.targets.names))
    for images in labelled:
        own = images.targets
        at = {name: number for number, name in enumerate(own.names)}
        none = np.where(np.isnan(own.values).all(1, keepdims=True), np.nan, 0.0)
        columns = [own.values[:, [at[name]]] if name in at else none for name in names]
        images.targets = Targets(names, np.hstack(columns), "labels")  # type: ignore[misc]  # a plain attribute of sets


def targets_instead(table: Table, chosen: str | None) -> Targets | None:
    """Read targets from the first column with a usual class name that holds several labels, or else decimal numbers."""
    numbers = None
    for column in candidates(table, chosen):
        values = table.column_of(column)
        try:
            class_names(values)
        except SeveralLabelsError:
            return several_labels([several_in(value) for value in values])
        except NumbersError:
            numbers = numbers or Targets((column,), numbers_of(values)[:, None], "numbers")
        except NotClassesError:
            continue
    return numbers


def captions_of(
    features: Mapping[str, Any], column_of: Callable[[str], Sequence[Any]]
) -> tuple[tuple[str, ...], ...] | None:
    """Read captions from the first column of strings or lists of strings called caption, captions or text."""
    for column in CAPTIONS:
        kind = features.get(column)
        cell = getattr(kind, "feature", kind)  # the element type of a list
        if getattr(cell, "dtype", "") in ("string", "large_string"):
            return tuple(as_captions(value) for value in column_of(column))
    return None


def as_captions(value: Any) -> tuple[str, ...]:
    """Return the captions in a cell that holds one, several or none."""
    texts = [value] if isinstance(value, str) else value or []
    return tuple(text for text in texts if isinstance(text, str) and text.strip())


def numbers_of(values: Sequence[Any]) -> NDArray[np.float64]:
    """Convert cells to float64, NaN where they are empty."""
    return np.array([number_in(value) for value in values], np.float64)


def _are_indicators(rows: Sequence[Sequence[Any]]) -> bool:
    """Return whether all rows are equally long lists of 0 and 1, at least one with a repeated value."""
    same_length = len({len(row) for row in rows}) == 1
    return (
        same_length and all(cell in (0, 1) for row in rows for cell in row) and any(len(set(r)) < len(r) for r in rows)
    )
