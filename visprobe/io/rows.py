"""Rows of plain values, written as a file for a spreadsheet or a script."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visprobe.errors import UsageError
from visprobe.io import atomic
from visprobe.io.inert import csv_safe
from visprobe.io.redact import redacted

_SUFFIXES = (".json", ".csv")


def check_rows_path(path: Path) -> Path:
    """Return `path` if `write_rows` can write it.

    Raises:
        UsageError: If its suffix is neither .json nor .csv.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{path} ends in neither .json nor .csv", hint="Name a .json or a .csv file.")
    return path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows` atomically, as JSON or CSV by the suffix of `path`; in CSV a list becomes "a; b" or "none".

    Raises:
        UsageError: If the suffix is neither.
    """
    if check_rows_path(path).suffix == ".json":
        atomic.write_json(path, redacted(list(rows)))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    atomic.write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    return csv_safe(redacted("; ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else value))
