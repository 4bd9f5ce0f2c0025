"""Rows of a file of labels: text with any separator, JSON, lines of JSON; UTF-8 or UTF-16."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visprobe.data.labels.class_column import may_be_class
from visprobe.errors import DataError
from visprobe.io.regular import read_regular

FORMS = (
    "Write one class per line in the order of the file names; lines 'file class'; a table with the columns file and "
    "label (csv, tsv, semicolons); or JSON: {file: class}, or records with file and label."
)
_SEPARATORS = "\t;,|"
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """A table as it stands in a file.

    Attributes:
        cells: Row by row, of equal lengths if the file is in order.
        header: Names of the columns, where the form of the file gives them.
        lines: What stands in the file for each row.
    """

    cells: Sequence[Sequence[Any]]
    header: tuple[str, ...] | None
    lines: Sequence[str]


def readings(file: Path) -> tuple[list[Rows], list[str]]:
    """The tables that a file may be, one for each separator in it, and its lines.

    Args:
        file: Text or JSON.

    Raises:
        DataError: If it is neither, or empty.
    """
    text = _text(file)
    if text.lstrip()[:1] in ("{", "["):
        return [_json_rows(text, file)], []
    lines = [line.strip(" ") for line in text.split("\n") if line.strip() and not line.startswith("#")]
    if not lines:
        raise DataError(f"{file} is empty", hint=FORMS)
    return [_split(lines, mark, file) for mark in _SEPARATORS if any(mark in line for line in lines)], lines


def _text(file: Path) -> str:
    try:
        data = read_regular(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", hint=FORMS) from error
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except ValueError as error:
        raise DataError(
            f"{file} is no text in UTF-8 or UTF-16", hint=f"Save it as text in UTF-8 (in Excel: 'CSV UTF-8'). {FORMS}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split(lines: Sequence[str], mark: str, file: Path) -> Rows:
    try:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read: {error}", hint=FORMS) from error
    return Rows(cells, None, lines)


def _json_rows(text: str, file: Path) -> Rows:
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        except ValueError as error:
            raise DataError(f"{file} is neither JSON nor lines of JSON: {error}", hint=FORMS) from error
    while isinstance(found, dict) and len(found) == 1 and isinstance(inner := next(iter(found.values())), (dict, list)):
        found = inner  # {"labels": ...}
    if isinstance(found, dict) and any(map(may_be_class, found)):  # a table by columns
        columns = [list(cells.values()) if isinstance(cells, dict) else cells for cells in found.values()]
        if not all(isinstance(cells, list) for cells in columns) or len({len(cells) for cells in columns}) > 1:
            raise DataError(f"{file} holds {', '.join(found)}, which are no columns of one table", hint=FORMS)
        found = [dict(zip(found, row, strict=True)) for row in zip(*columns, strict=True)]
    elif isinstance(found, dict):
        found = [
            {"file": name, **inner} if isinstance(inner, dict) else {"file": name, "label": inner}
            for name, inner in found.items()
        ]
    if not found:
        raise DataError(f"{file} is empty", hint=FORMS)
    return _records(found, file)


def _records(found: Sequence[Any], file: Path) -> Rows:
    lines = [json.dumps(record, ensure_ascii=False)[:200] for record in found]
    if all(isinstance(record, dict) for record in found):
        header = tuple(dict.fromkeys(name for record in found for name in record))
        return Rows([[record.get(name) for name in header] for record in found], header, lines)
    if all(isinstance(record, list) for record in found):
        return Rows(found, None, lines)
    if any(isinstance(record, (dict, list)) for record in found):
        raise DataError(f"{file} mixes records and values", hint=FORMS)
    return Rows([[record] for record in found], ("label",), lines)
