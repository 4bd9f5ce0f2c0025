"""From the cells of a column to names of classes, and what is no class: several labels, numbers, nothing."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from visprobe.errors import DataError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|[+-]?inf", re.IGNORECASE)
_SEVERAL = re.compile(r"\[.*[,\s].*\]|.*\|.*", re.DOTALL)  # "[0, 3]" and "cat|dog" in a table of text


class NotClassesError(Exception):
    """A column that holds no classes; the text says what it holds instead."""


class SeveralLabelsError(NotClassesError):
    """A column that holds several labels of an image."""

    def __init__(self) -> None:
        super().__init__("holds several labels of an image, not one class")


class NumbersError(NotClassesError):
    """A column that holds measured numbers."""

    def __init__(self) -> None:
        super().__init__("holds decimal numbers, which are a target and no class")


def class_names(values: Sequence[Any]) -> tuple[list[str | None], bool]:
    """The class in every cell, None where it is empty, NaN or -1, as test splits are often published.

    Integers, booleans and strings are classes. 7, 7.0, "7" and "07" are one class, unless the column holds words too.

    Args:
        values: The cells.

    Returns:
        The classes; and whether they were written with a decimal point.

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
    """The labels in a cell that holds a list or the text of one, "[0, 3]" or "cat|dog"; None in an empty cell."""
    if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        return list(value) if isinstance(value, (list, tuple)) else [value]
    is_list = value.startswith("[") and value.endswith("]")
    parts = re.split(r"[,\s]+", value[1:-1]) if is_list else value.split("|")
    return [label for part in parts if (label := same_name(part).strip("'\""))]


def number_in(value: Any) -> float:
    """The number in a cell that holds one or the text of one; NaN in an empty cell."""
    return math.nan if value in (None, "") else float(value)


def same_name(text: str) -> str:
    """A name without the differences that nobody sees: in Unicode's composed form, without blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def sorted_classes(names: set[str]) -> tuple[str, ...]:
    """Class names in order: by number if all are numbers, else by letter."""
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def refuse_lookalikes(found: Mapping[str, tuple[str, ...] | None], where: object) -> None:
    """Refuse classes of two splits whose names differ only in case, blanks, underscores or hyphens.

    Both in one split are two classes, as the letters a and A are.

    Raises:
        DataError: With both spellings in quotation marks.
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
    """A name without what is hard to see: case, blanks, underscores and hyphens, but for those between digits."""
    text = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf").casefold()
    return re.sub(r"[\s_-]+", "", re.sub(r"(?<=\d)[\s_-]+(?=\d)|^-(?=\d)", ".", text.strip()))
