"""HTML of measurements for notebooks: it runs nothing, fetches nothing and escapes every text."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from visprobe.figures.save import figure_bytes
from visprobe.io.inert import escape_control_characters
from visprobe.io.redact import redact
from visprobe.report.page.render import all_warnings, environment
from visprobe.report.tables import Table, tables
from visprobe.results.result import Result

MOST_BESIDE = 24  # lines of tables of a result that is shown with others
MOST_ALONE = 120  # the same of a result shown by itself
PER_INCH = 150  # pixels of a screen


@dataclass(frozen=True)
class Section:
    """Content that is shown of one result.

    Attributes:
        analysis: Name of the analysis.
        question: Question of the analysis.
        tables: Tables, cut to the lines that a notebook has room for.
        rows: Number of rows of the result.
        left_out: Number of rows that are not in the tables.
    """

    analysis: str
    question: str
    tables: Sequence[Table]
    rows: int
    left_out: int


def measurement_html(document: Mapping[str, Any], pictures: Sequence[tuple[Figure, str]] = ()) -> str:
    """Render verdict, pictures and tables of a whole measurement.

    Args:
        document: Result of `visprobe.report.document.build_document`.
        pictures: Figures, each with its caption.

    Returns:
        HTML with inline style only, which takes its colours from the notebook. Every text is escaped, and its control
        characters are spelled out.
    """
    results = [Result.from_json(result) for result in document["results"]]
    warnings = dict.fromkeys(f"{source}: {text}" for source, text in all_warnings(document, results))
    sections = [_section(result, MOST_BESIDE) for result in results if result.rows]
    verdict = [statement["text"] for statement in document["verdict"]]
    return _render(verdict, pictures, sections, list(warnings))


def result_html(result: Result) -> str:
    """Render one result as in `measurement_html`, with more lines of its tables."""
    return _render([], [], [_section(result, MOST_ALONE)], list(result.warnings))


def _render(
    verdict: Sequence[str], pictures: Sequence[tuple[Figure, str]], sections: Sequence[Section], notes: Sequence[str]
) -> str:
    templates = environment().overlay(finalize=_shown)
    drawn = [(_Address(figure), caption, round(figure.get_figwidth() * PER_INCH)) for figure, caption in pictures]
    template = templates.get_template("notebook.html.j2")
    return template.render(verdict=verdict, pictures=drawn, sections=sections, notes=notes)


class _Address:
    """A figure as a data URI; no `str`, so that `_shown` does not search megabytes of base64 for secrets."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure

    def __str__(self) -> str:
        small = io.BytesIO()  # photographs as WebP take a sixth of the bytes of PNG, and notebooks are kept
        Image.open(io.BytesIO(figure_bytes(self._figure, "png"))).save(small, "WEBP", quality=85)
        return f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}"


def _shown(value: Any) -> Any:
    return escape_control_characters(redact(value)) if type(value) is str else value


def _section(result: Result, most: int) -> Section:
    """Fit a result into `most` lines: all its tables, or only rows where the language model reads."""
    shown = tables(result)
    if sum(len(table.lines) for table in shown) > most:
        read = {result.consumed, "projected", "tower"}
        where_read = tuple(row for row in result.rows if row.site in read)
        shown = _cut(tables(replace(result, rows=where_read or result.rows)), most)
    cells = sum(len(cells) for table in shown for cells in table.lines.values())
    return Section(result.analysis, result.question, shown, len(result.rows), len(result.rows) - cells)


def _cut(found: Sequence[Table], most: int) -> list[Table]:
    shown = []
    for table in found:
        lines = dict(list(table.lines.items())[:most])
        most -= len(lines)
        if lines:
            shown.append(replace(table, lines=lines))
    return shown


Result.shown_as = staticmethod(result_html)
