"""Writing of a report: report.json, figures/, results as a table, and report.html, each complete or absent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visprobe.figures.save import save_figure, svg_text
from visprobe.io import atomic
from visprobe.report.page.render import render
from visprobe.report.presentations import figures_of, presentations
from visprobe.report.result_table import write_result_table
from visprobe.results.result import Result


def write_report(folder: Path, document: Mapping[str, Any]) -> Path:
    """Draw the figures of `document` and write it as JSON, as a table (Parquet, CSV) and as one HTML page.

    The page is written last: where report.html exists, everything beside it is complete.

    Args:
        folder: Output folder, made if missing. Files of an earlier report are replaced.
        document: Result of `build_document`, or the content of a report.json.

    Returns:
        The path of report.html.

    Raises:
        ValueError: If the document holds NaN or infinity, which JSON cannot hold; nothing is written then.
    """
    text = atomic.to_json(document)
    names = [checkpoint["name"] for checkpoint in document["checkpoints"]]
    results = [Result.from_json(result) for result in document["results"]]
    drawn = {figure.name: (figure.draw(result, names), result.rows) for result, figure in figures_of(results)}
    texts = {name: svg_text(figure) for name, (figure, _) in drawn.items()}
    page = render(document, texts)
    (folder / "report.html").unlink(missing_ok=True)
    for old in (figure.name for shown in presentations().values() for figure in shown.figures):
        for suffix in ("svg", "png", "csv"):  # a figure of an earlier report would pass for one of this one
            (folder / "figures" / f"{old}.{suffix}").unlink(missing_ok=True)
    for name, (figure, rows) in drawn.items():
        save_figure(figure, folder / "figures", name, rows, texts[name])
    write_result_table(folder, [record for result in results for record in result.to_table()])
    atomic.write_text(folder / "report.json", text + "\n")
    atomic.write_text(folder / "report.html", page)
    return folder / "report.html"
