"""`visprobe report`: rebuilding of the page of a run, and merging of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.output import print_notes, printable


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders that commands wrote, or their report.json.")],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Folder that is written. Default: that of the run; visprobe-report for several runs.",
            callback=lambda path: path and o.writable(path),
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Make page, figures and tables of a run anew from its report.json, or put several runs side by side.

    Writes report.html, figures/, results.parquet and results.csv. Of several runs, results that have one base and the
    same images share tables; what differs is said. No checkpoint and no image is needed.

    Example: visprobe report visprobe-compare

    Example: visprobe report runs/lr1e-5 runs/lr1e-6 -o both
    """
    import shlex

    from visprobe.cli.present import command_line
    from visprobe.io.atomic import to_json
    from visprobe.io.redact import redact
    from visprobe.report.merge import apart
    from visprobe.report.page.merged_page import write_merged
    from visprobe.report.rebuild import read_runs, rebuild

    found = read_runs(runs)
    single = len(runs) == 1
    folder = output_dir or (_folder(runs[0]) if single else o.writable(Path("visprobe-report")))
    if len(found) == 1:
        page = rebuild(found[0], folder)
    else:
        page = write_merged(folder, found, redact(shlex.join(command_line())))
    notes = apart(found)
    if json:
        print(to_json({"report": str(page), "runs": [run.name for run in found], "differs": notes}))
    else:
        print_notes(notes)
        print(f"report: {printable(str(page))}")


def _folder(run: Path) -> Path:
    return o.writable(run if run.is_dir() else run.parent)
