"""Merged report of several runs: one page, one table of all numbers, their figures and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import visprobe
from visprobe.errors import UsageError
from visprobe.figures.save import save_figure, svg_text
from visprobe.io import atomic
from visprobe.report.merge import apart, side_by_side
from visprobe.report.page.render import (
    Shown,
    all_warnings,
    environment,
    fit_figures,
    gates_of,
    options_of,
    provenance_table,
    shown_figures,
)
from visprobe.report.page.size_limit import fit_tables, render_within_budget
from visprobe.report.presentations import figures_of
from visprobe.report.rebuild import Run, draw_figure, unusable
from visprobe.report.result_table import write_result_table
from visprobe.report.schema import RUNS_SCHEMA
from visprobe.report.tables import tables


class _Placed(NamedTuple):
    """A figure of a run, with the name of its file."""

    run: str
    figure: Shown
    file: str


def write_merged(folder: Path, runs: Sequence[Run], command: str) -> Path:
    """Write one report of several runs.

    Args:
        folder: Output folder, made if missing. An earlier report of several runs is replaced.
        runs: Two runs or more.
        command: Command line that asked for it.

    Returns:
        The path of report.html.

    Raises:
        UsageError: If `folder` holds the report of a single run, which would be lost.
        DataError: If a figure cannot be drawn; nothing is written then.
    """
    _refuse_single(folder)
    document = merged_document(runs, command)
    drawn = [{figure.name: draw_figure(run, figure.name) for _, figure in figures_of(run.results)} for run in runs]
    texts = [{name: svg_text(figure) for name, figure in figures.items()} for figures in drawn]
    page = render_merged(document, runs, texts)
    (folder / "report.html").unlink(missing_ok=True)
    for old in folder.glob("figures/[0-9]*_*"):  # a figure of an earlier report would pass for one of this one
        old.unlink()
    for number, (run, figures, svgs) in enumerate(zip(runs, drawn, texts, strict=True), start=1):
        rows = {figure.name: result.rows for result, figure in figures_of(run.results)}
        for name, figure in figures.items():
            save_figure(figure, folder / "figures", f"{number}_{name}", rows[name], svgs[name])
    records = [{"run": run.name, **record} for run in runs for result in run.results for record in result.to_table()]
    write_result_table(folder, records)
    atomic.write_json(folder / "report.json", document)
    atomic.write_text(folder / "report.html", page)
    return folder / "report.html"


def merged_document(runs: Sequence[Run], command: str, created: datetime | None = None) -> dict[str, Any]:
    """Return the content of the report.json of several runs: the document of each run under its name."""
    return {
        "schema": RUNS_SCHEMA,
        "visprobe": visprobe.__version__,
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "command": command,
        "runs": [{"name": run.name, "document": run.document} for run in runs],
    }


def render_merged(document: Mapping[str, Any], runs: Sequence[Run], texts: Sequence[Mapping[str, str]]) -> str:
    """Render the page: verdicts by run, differences, figures and numbers side by side, provenance of each run.

    Args:
        document: Result of `merged_document`.
        runs: Runs of the report.
        texts: SVG text by figure name, for each run.

    Returns:
        HTML of at most 20 MB, escaped as in `visprobe.report.page.render.render`.
    """
    try:
        groups = side_by_side(runs)
        numbers = [tables(group.result) for group in groups]
        shown = [_described(run) for run in runs]
    except Exception as error:  # damaged provenance or settings can make any line fail
        raise unusable(runs[0], "the runs cannot be put side by side", error) from error
    figures, differing = _figures(runs, texts), apart(runs)
    template = environment().get_template("merged.html.j2")

    def make(room: int) -> str:
        fitted = fit_figures([one.figure for one in figures], room)
        by_question: dict[str, list[_Placed]] = {}
        for one, figure in zip(figures, fitted, strict=True):
            by_question.setdefault(figure.question, []).append(one._replace(figure=figure))
        cut = zip(groups, fit_tables(numbers, room), strict=True)
        sections = [(group, *tables_left) for group, tables_left in cut]
        return template.render(document=document, runs=shown, apart=differing, figures=by_question, sections=sections)

    return render_within_budget(make)


def _described(run: Run) -> dict[str, Any]:
    checkpoints = run.document["checkpoints"]
    return {
        "name": run.name,
        "document": run.document,
        "checkpoints": [checkpoint["name"] for checkpoint in checkpoints],
        "provenance": provenance_table(checkpoints),
        "warnings": list(all_warnings(run.document, run.results)),
        "gates": gates_of(run.document),
        "options": options_of(run.document),
    }


def _figures(runs: Sequence[Run], texts: Sequence[Mapping[str, str]]) -> list[_Placed]:
    found = []
    for number, (run, svgs) in enumerate(zip(runs, texts, strict=True), start=1):
        for figure in shown_figures(run.results, svgs, prefix=f"run-{number}-"):
            found.append(_Placed(run.name, figure, f"{number}_{figure.name}"))
    return found


def _refuse_single(folder: Path) -> None:
    held = folder / "report.json"
    if held.is_file() and "visprobe.runs/" not in held.read_text("utf-8", "replace")[:200]:
        raise UsageError(f"{folder} holds the report of a run, which would be lost", hint="Name another --output-dir.")
