"""A figure on disk: vector and raster, beside the rows it was drawn from."""

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
_COLUMNS = ("checkpoint", "site", "measure", "reference", "role", *(f.name for f in fields(Estimate)))


def save_figure(figure: Figure, folder: Path, name: str, rows: Iterable[Row], svg: str | None = None) -> None:
    """Write `name`.svg, `name`.png and `name`.csv into `folder`, each atomically and the same on every run.

    Args:
        figure: The figure, as a `draw` function made it.
        folder: Where to; made if missing.
        name: File name without its ending.
        rows: The rows that the figure was drawn from, for the CSV file.
        svg: What `svg_text` returned for this figure; made here, if None.
    """
    atomic.write_text(folder / f"{name}.svg", with_font(svg or svg_text(figure)))
    atomic.write_bytes(folder / f"{name}.png", figure_bytes(figure, "png"))
    atomic.write_text(folder / f"{name}.csv", rows_csv(rows))


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """`figure` as a file of a kind in `FORMATS`, its text as text in a font that it holds (svg, pdf)."""
    if kind == "svg":
        return with_font(svg_text(figure)).encode()
    if kind == "png":
        return _render(figure, "png", dpi=PNG_DPI, metadata={"Software": None})
    return _render(figure, "pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def svg_text(figure: Figure) -> str:
    """`figure` as SVG without a date, with its text as text in a font that the reader has to have."""
    told = name_marks(figure)
    text = with_titles(_render(figure, "svg", metadata={"Date": None, "Creator": None}).decode(), told)
    # matplotlib names some clip paths after addresses in memory: numbered, the same figure gives the same bytes.
    for number, name in enumerate(dict.fromkeys(re.findall(r'<clipPath id="(p[0-9a-f]{10})"', text))):
        text = text.replace(name, f"clip{number}")
    # And images after their content: a picture that is shown twice would give one id to two elements.
    numbers = count()
    return re.sub(r'id="image[0-9a-f]{10}"', lambda _: f'id="image{next(numbers)}"', text)


def rows_csv(rows: Iterable[Row]) -> str:
    """`rows` as CSV. A cell of text that a spreadsheet would run as a formula gets a leading apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        cells = (row.checkpoint, row.site, row.measure, row.reference, row.role, *astuple(row.estimate))
        writer.writerow([csv_safe(cell) for cell in cells])
    return text.getvalue()


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with paper_style(), warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes in the PNG; the SVG and the CSV have it right.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        if figure.get_layout_engine() is not None:  # it settles further with each drawing: every file gets the first
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
