"""Reports read back from report.json: validation, and rebuilding of page and figures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError

from visprobe.errors import DataError, UsageError, VisprobeError
from visprobe.io.redact import redacted
from visprobe.report.document import SCHEMA
from visprobe.report.presentations import figures_of
from visprobe.report.schema import RUNS_SCHEMA, VERSION, Report, Runs
from visprobe.report.schema_1 import upgraded
from visprobe.report.write import write_report
from visprobe.results.result import Result, Row

_SCHEMA = re.compile(r"visprobe\.(report|runs)/(\d+)")
_FAULTS = 3  # faults named in a message


@dataclass(frozen=True)
class Run:
    """A report under a name that is distinct among those that are read together.

    Attributes:
        name: Name of the run.
        document: Content of its report.json.
    """

    name: str
    document: Mapping[str, Any]

    @property
    def results(self) -> list[Result]:
        """Results of the run."""
        return [Result.from_json(result) for result in self.document["results"]]


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read reports from disk, named by the shortest distinct endings of their paths.

    Args:
        paths: Folders with a report.json, or such files. A merged report stands for its runs.

    Raises:
        UsageError: If a report is named twice.
        DataError: If a report is missing, damaged, of another program, or of a newer visprobe.
    """
    read = [_read(path) for path in paths]
    runs = []
    for name, document in zip(_names(paths), read, strict=True):
        if document["schema"] == RUNS_SCHEMA:
            before = f"{name}/" if len(paths) > 1 else ""
            runs += [Run(before + one["name"], one["document"]) for one in document["runs"]]
        else:
            runs.append(Run(name, document))
    same = [(one, two) for n, one in enumerate(runs) for two in runs[n + 1 :] if one.document == two.document]
    if same:
        raise UsageError(f"{same[0][0].name} and {same[0][1].name} are the same report", hint="Name each report once.")
    return runs


def rebuild(run: Run, folder: Path) -> Path:
    """Write page, tables and figures of a run into `folder`, from its document alone.

    Returns:
        The path of report.html.

    Raises:
        DataError: If its settings are damaged, so that a figure or the page cannot be made; nothing is written then.
    """
    try:
        return write_report(folder, run.document)
    except (VisprobeError, OSError):
        raise
    except Exception as error:  # damaged settings can make any line of any figure fail
        raise unusable(run, "its page cannot be made", error) from error


@dataclass(frozen=True)
class Drawn:
    """A redrawn figure of a run.

    Attributes:
        figure: Matplotlib figure.
        caption: Caption, with n and the kind of interval.
        rows: Rows of the result it was drawn from.
    """

    figure: Figure
    caption: str
    rows: Sequence[Row]


def draw_figure(run: Run, name: str, width: float | None = None) -> Figure:
    """Draw a figure of a run again; see `redraw`."""
    return redraw(run, name, width).figure


def redraw(run: Run, name: str, width: float | None = None) -> Drawn:
    """Draw a figure of a run again, with its caption and rows.

    Args:
        run: Run that has the figure.
        name: Name of the figure ("representation_drift") or of its analysis ("drift").
        width: Inches; None for the width in a report.

    Raises:
        UsageError: If there is no such figure in this run.
        DataError: If its settings are damaged.
    """
    names = [checkpoint["name"] for checkpoint in run.document["checkpoints"]]
    known = list(figures_of(run.results))
    found = [(result, figure) for result, figure in known if name in (result.analysis, figure.name)]
    if not found:
        listed = ", ".join(figure.name for _, figure in known)
        raise UsageError(f"{run.name} has no figure {name!r}", hint=f"It has: {listed or 'none'}.")
    try:
        result, figure = found[0]
        return Drawn(figure.draw(result, names, width), figure.caption(result), result.rows)
    except Exception as error:  # damaged settings can make any line of any figure fail
        raise unusable(run, f"the figure {name} cannot be drawn", error) from error


def unusable(run: Run, what: str, error: Exception) -> DataError:
    """Return the error for a report whose content makes rendering fail."""
    problem = f"the report {run.name} is damaged: {what} ({type(error).__name__}: {error})"
    return DataError(problem, hint="Run the command of the report again.")


def _read(path: Path) -> dict[str, Any]:
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path} holds no report.json", hint="Name the output folder of a command that measured.")
    try:
        text = file.read_text("utf-8")
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged: {error}", hint="Run the command that wrote it again.") from None
    kind, version = _kind(file, document)
    if version < VERSION:
        document = upgraded(document)
        text = json.dumps(document)
    try:
        TypeAdapter(Runs if kind == "runs" else Report).validate_json(text, strict=True)
    except ValidationError as error:
        places = [f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()[:_FAULTS]]
        raise DataError(
            f"{file} is damaged at {error.error_count()} places: {'; '.join(places)}",
            hint="Run the command that wrote it again.",
        ) from None
    found: dict[str, Any] = redacted(document)
    return found


def _kind(file: Path, document: object) -> tuple[str, int]:
    """Return "report" for one run, "runs" for several, and the version of the schema."""
    schema = document.get("schema") if isinstance(document, dict) else None
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    if not match:
        raise DataError(f"{file} is no report of visprobe", hint="Name the output folder of a command that measured.")
    if not 1 <= int(match[2]) <= VERSION:
        writer = document.get("visprobe", "another version") if isinstance(document, dict) else ""
        raise DataError(
            f"{file} has the schema {schema}, written by visprobe {writer}; this version reads {SCHEMA} and older",
            hint="Use the version of visprobe that wrote it, or a newer one.",
        )
    return match[1], int(match[2])


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest distinct endings of the paths."""
    whole = [Path(os.path.abspath(path.parent if path.name == "report.json" else path)).parts for path in paths]
    if len(set(whole)) < len(whole):
        raise UsageError("the same report is named twice", hint="Name each report once.")
    for depth in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names
