"""Figures on disk: vector and raster, beside the rows that they were drawn from."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable
from dataclasses import astuple, fields
from itertools import count
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from visprobe.figures.embedded_font import with_font
from visprobe.figures.marks import name_marks, with_titles
from visprobe.figures.style import paper_style
from visprobe.io import atomic
from visprobe.io.inert import csv_safe
from visprobe.results.result import Estimate, Row

PNG_DPI = 200
FORMATS = ("svg", "png", "pdf")
_COLUMNS = ("checkpoint", "site", "measure", "reference", "role", "baseline", *(f.name for f in fields(Estimate)))


def save_figure(figure: Figure, folder: Path, name: str, rows: Iterable[Row], svg: str | None = None) -> None:
    """Write `name`.svg, `name`.png and `name`.csv into `folder`, each atomically and the same on every run.

    Args:
        figure: Figure from a `draw` function.
        folder: Folder to write to; made if missing.
        name: File name without its ending.
        rows: Rows that the figure was drawn from, for the CSV file.
        svg: SVG of this figure from `svg_text`; made here if None.
    """
    atomic.write_text(folder / f"{name}.svg", with_font(svg or svg_text(figure)))
    atomic.write_bytes(folder / f"{name}.png", figure_bytes(figure, "png"))
    atomic.write_text(folder / f"{name}.csv", rows_csv(rows))


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """Return `figure` as a file of a kind in `FORMATS`, its text as text in an embedded font (svg, pdf)."""
    if kind == "svg":
        return with_font(svg_text(figure)).encode()
    if kind == "png":
        return _render(figure, "png", dpi=PNG_DPI, metadata={"Software": None})
    return _render(figure, "pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def svg_text(figure: Figure) -> str:
    """Return `figure` as SVG without a date, its text as text in a font that the reader has to have."""
    told = name_marks(figure)
    text = with_titles(_render(figure, "svg", metadata={"Date": None, "Creator": None}).decode(), told)
    # matplotlib names some clip paths after memory addresses: numbered, the same figure gives the same bytes.
    for number, name in enumerate(dict.fromkeys(re.findall(r'<clipPath id="(p[0-9a-f]{10})"', text))):
        text = text.replace(name, f"clip{number}")
    # Images are named after their content: a picture shown twice would give one id to two elements.
    numbers = count()
    return re.sub(r'id="image[0-9a-f]{10}"', lambda _: f'id="image{next(numbers)}"', text)


def rows_csv(rows: Iterable[Row]) -> str:
    """Return `rows` as CSV; a text that a spreadsheet would run as a formula gets a leading apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        cells = (row.checkpoint, row.site, row.measure, row.reference, row.role, row.baseline, *astuple(row.estimate))
        writer.writerow([csv_safe(cell) for cell in cells])
    return text.getvalue()


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with paper_style(), warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes in the PNG; SVG and CSV have it right.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        if figure.get_layout_engine() is not None:  # layouts shift with each drawing: all files get the first
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
