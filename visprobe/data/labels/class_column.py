"""Choice of the column of a table that holds the class of each image."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from visprobe.errors import DataError

LABEL = "label"  # this name always wins
# Usual names of class columns, in lower case. A name that ends in a digit is one of several targets.
_NAMES = re.compile(
    r"(fine|coarse)?labels?(id|idx|index|name)?|class(es)?(id|idx|index|name|label)?|cls|category(id|name)?|targets?|"
    r"wnid|synset(id)?|groundtruth"
)
_LISTED = 8


@dataclass(frozen=True)
class Table:
    """Table with one row per image.

    Attributes:
        name: Name of the set, for messages.
        ids: Ids of the images.
        columns: Names of the columns, without that of the images.
        column_of: Returns the cells of a column; called only for columns that may be the class.
        declared: Class names of the columns whose type declares class numbers.
        word: Word for a column in messages.
    """

    name: str
    ids: Sequence[str]
    columns: Sequence[str]
    column_of: Callable[[str], Sequence[Any]]
    declared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    word: str = "column"


@dataclass(frozen=True)
class Classes:
    """Classes of a set's images, or why there are none.

    Attributes:
        of: Class of each image; None if there are none.
        names: All classes that the column declares, in order; None if it does not declare them.
        column: Name of their column.
        notes: Remarks for the reader about that choice.
        why_none: Reason why there are none, and what to do; empty if unknown.
    """

    of: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    column: str | None = None
    notes: tuple[str, ...] = ()
    why_none: str = ""


def may_be_class(column: str) -> bool:
    """Return whether a name is usual for a class column: "label", "class_id", "Fine Label"."""
    return _NAMES.fullmatch(re.sub(r"[^a-z0-9]", "", column.lower())) is not None


def is_row_number(column: str) -> bool:
    """Return whether a column is the index that pandas writes beside a table."""
    return re.fullmatch(r"|Unnamed: \d+|__index_level_\d+__", column) is not None


def candidates(table: Table, chosen: str | None = None) -> list[str]:
    """Return the columns that may be the class: a certain one alone, or all with a usual name."""
    if chosen is not None:
        return [column for column in table.columns if column == chosen]
    if LABEL in table.columns:
        return [LABEL]
    if table.declared:
        return list(table.declared)[:1]
    return [column for column in table.columns if may_be_class(column)]


def find_classes(table: Table, chosen: str | None = None) -> Classes:
    """Find the classes in the one column that must be the class.

    It is the one called "label", else the first whose type declares classes, else the only one with a usual name; of
    two that say the same, such as class and class_id, the one in words.

    Args:
        table: Columns of the images.
        chosen: Column named by the user.

    Raises:
        DataError: If only some of the images have a class.
    """
    asked = candidates(table, chosen)
    if not asked:
        return Classes(why_none=_no_column(table, chosen))
    found, problems = {}, []
    for column in asked:
        try:
            found[column] = _read(table, column)
        except NotClassesError as error:
            problems.append(_instead(column, error))
    if not found:
        return Classes(why_none="; ".join(problems))
    if len(found) > 1 and not _say_the_same([names for names, _ in found.values()]):
        return Classes(why_none=f"{_listed(list(found))} may each be the class: --labels NAME takes one of them")
    column = min(found, key=lambda column: _is_number(found[column][0]))
    names, with_point = found[column]
    missing = names.count(None)
    if missing == len(names):
        return Classes(
            why_none=f"{column} is -1 or empty for all {missing} images, as in test splits without published labels"
        )
    if missing:
        raise DataError(
            f"{missing} of {len(names)} images of {table.name} have no {column} (empty, NaN or -1), "
            f"the first {table.ids[names.index(None)]}",
            hint=f"Give each its {column}, or remove these rows; if -1 is a class, write another name for it.",
        )
    declared = tuple(table.declared[column]) if column in table.declared else None
    notes = _notes(table, column, with_point, None if chosen else column)
    return Classes(tuple(name for name in names if name is not None), declared, column, notes)


def _notes(table: Table, column: str, with_point: bool, guessed: str | None) -> tuple[str, ...]:
    notes = []
    others = [other for other in table.declared if other != column]
    if guessed not in (None, LABEL) and (others or column not in table.declared):
        also = f"; --labels takes another: {_listed(others)}" if others else ""
        notes.append(f"the classes of {table.name} are its {table.word} {column}{also}")
    if with_point:
        notes.append(f"{table.name}: {column} holds numbers with a decimal point, all of them whole: read as classes")
    return tuple(notes)


def _read(table: Table, column: str) -> tuple[list[str | None], bool]:
    names, with_point = class_names(table.column_of(column))
    if column not in table.declared:
        return names, with_point
    declared = table.declared[column]
    if beyond := [name for name in names if name is not None and not 0 <= int(name) < len(declared)]:
        raise NotClassesError(f"holds the class {beyond[0]}, and its type names {len(declared)} classes")
    return [None if name is None else declared[int(name)] for name in names], with_point


def _say_the_same(columns: Sequence[Sequence[str | None]]) -> bool:
    """Return whether the columns are the same partition of the images under different names."""
    together = len(set(zip(*columns, strict=True)))
    return all(len(set(column)) == together for column in columns)


def _is_number(names: Sequence[str | None]) -> bool:
    return all(name is None or name.isdecimal() for name in names)


def _instead(column: str, error: NotClassesError) -> str:
    how = {SeveralLabelsError: "labels", NumbersError: "numbers"}.get(type(error))
    return f"{column} {error}" + (f" (visprobe probe --targets {how} reads them)" if how else "")


def _no_column(table: Table, chosen: str | None) -> str:
    if not table.columns:
        return ""
    lacking = f"no {table.word} is called {chosen or LABEL}; there are {_listed(table.columns)}"
    return lacking if chosen else f"{lacking} (--labels NAME takes one)"


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:_LISTED])
    return shown if len(columns) <= _LISTED else f"{shown} and {len(columns) - _LISTED} more"


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|[+-]?inf", re.IGNORECASE)
_SEVERAL = re.compile(r"\[.*[,\s].*\]|.*\|.*", re.DOTALL)  # "[0, 3]" and "cat|dog" in a table of text


class NotClassesError(Exception):
    """Column that holds no classes; the text says what it holds instead."""


class SeveralLabelsError(NotClassesError):
    """Column that holds several labels per image."""

    def __init__(self) -> None:
        super().__init__("holds several labels of an image, not one class")


class NumbersError(NotClassesError):
    """Column that holds measured numbers."""

    def __init__(self) -> None:
        super().__init__("holds decimal numbers, which are a target and no class")


def class_names(values: Sequence[Any]) -> tuple[list[str | None], bool]:
    """Return the class of every cell, None if it is empty, NaN or -1, as in many published test splits.

    Integers, booleans and strings are classes. 7, 7.0, "7" and "07" are one class, unless the column holds words too.

    Args:
        values: The cells.

    Returns:
        Classes, and whether they were written with a decimal point.

    Raises:
        NotClassesError: If cells hold several labels, or decimal numbers that are not all whole or mostly occur once.
    """
    cells = [_cell(value) for value in values]
    words = [cell for cell in cells if isinstance(cell, str)]
    if all(_NUMBER.fullmatch(word) for word in words):
        cells = [_number(cell) if isinstance(cell, str) else cell for cell in cells]
    elif any(_SEVERAL.fullmatch(word) for word in words):
        raise SeveralLabelsError
    decimals = [cell for cell in cells if isinstance(cell, float) and not math.isnan(cell)]
    if not all(map(float.is_integer, decimals)) or 2 * len(set(decimals)) > len(decimals) > 0:
        raise NumbersError
    return [_name(cell) for cell in cells], bool(decimals)


def several_in(value: Any) -> list[Any] | None:
    """Return the labels in a cell with a list or its text, "[0, 3]" or "cat|dog"; None for an empty cell."""
    if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        return list(value) if isinstance(value, (list, tuple)) else [value]
    is_list = value.startswith("[") and value.endswith("]")
    parts = re.split(r"[,\s]+", value[1:-1]) if is_list else value.split("|")
    return [label for part in parts if (label := same_name(part).strip("'\""))]


def number_in(value: Any) -> float:
    """Return the number in a cell, possibly as text; NaN for an empty cell."""
    return math.nan if value in (None, "") else float(value)


def same_name(text: str) -> str:
    """Normalise a name: Unicode's composed form, without blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Sort class names, by number if all are numbers, else by letter."""
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def refuse_lookalikes(found: Mapping[str, tuple[str, ...] | None], where: object) -> None:
    """Refuse classes of two splits whose names differ only in case, blanks, underscores or hyphens.

    If one split has both, such as the letters a and A, they are two classes.

    Raises:
        DataError: If there are such classes; the message quotes both spellings.
    """
    for split, names in found.items():
        for other, others in found.items():
            by_look = {_look(name): name for name in set(others or ()) - set(names or ())}
            for name in sorted(set(names or ()) - set(others or ())):
                if (alike := by_look.get(_look(name))) is not None:
                    raise DataError(
                        f"{where}: the class {name!r} of {split} is {alike!r} in {other}: they differ only in case, "
                        "blanks, underscores or hyphens",
                        hint="Give both the same name.",
                    )


def _cell(value: Any) -> str | bool | int | float | None:
    if isinstance(value, (bytes, str)):
        return same_name(value.decode(errors="replace") if isinstance(value, bytes) else value)
    if isinstance(value, Decimal):
        return float(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        raise SeveralLabelsError
    raise NotClassesError(f"holds cells of type {type(value).__name__}, which are no classes")


def _number(word: str) -> int | float:
    return int(word) if word.lstrip("+-").isdecimal() else float(word)


def _name(cell: str | bool | int | float | None) -> str | None:
    if cell in (None, "", "-1") or (not isinstance(cell, bool) and cell == -1):
        return None
    if isinstance(cell, float):
        return None if math.isnan(cell) else str(int(cell))
    return str(cell)


def _look(name: str) -> str:
    """Remove case, blanks, underscores and hyphens from a name, but for separators between digits."""
    text = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf").casefold()
    return re.sub(r"[\s_-]+", "", re.sub(r"(?<=\d)[\s_-]+(?=\d)|^-(?=\d)", ".", text.strip()))
