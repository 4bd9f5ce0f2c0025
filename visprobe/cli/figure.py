"""`visprobe figure`: one figure of a run, drawn again from its report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visprobe.cli.output import printable
from visprobe.errors import UsageError


def command(
    name: Annotated[str, typer.Argument(help="Figure or analysis: representation_drift or drift.")],
    run: Annotated[Path, typer.Argument(help="Folder that a command wrote, or its report.json.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File: .svg, .png or .pdf. Default: NAME.svg, here.")
    ] = None,
) -> None:
    """Draw a figure of a run again, as SVG, PNG or PDF with its text as text.

    Example: visprobe figure representation_drift visprobe-compare -o drift.pdf

    Example: visprobe figure imagenet visprobe-compare/report.json
    """
    from visprobe.figures.save import FORMATS, figure_bytes
    from visprobe.io.atomic import write_bytes
    from visprobe.report.rebuild import draw_figure, read_runs

    path = output or Path(f"{name}.svg")
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise UsageError(
            f"--output {path} has none of the endings {', '.join(FORMATS)}", hint=f"Write {path.with_suffix('.svg')}."
        )
    found = read_runs([run])
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise UsageError(f"{run} is a report of several runs: {names}", hint="Name the folder of one of them.")
    write_bytes(path, figure_bytes(draw_figure(found[0], name), kind))
    print(f"figure: {printable(str(path))}")
