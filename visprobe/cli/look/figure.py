"""`visprobe figure`: redrawing of a figure of a run from its report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from visprobe.cli.output import printable
from visprobe.errors import UsageError

NARROWEST, WIDEST = 2.5, 20.0  # inches: below, names have no room; no page is wider


def command(
    name: Annotated[str, typer.Argument(help="Figure or analysis: representation_drift or drift.")],
    run: Annotated[Path, typer.Argument(help="Folder that a command wrote, or its report.json.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File: .svg, .png or .pdf. Default: NAME.svg, here.")
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(
            metavar="one|two|INCHES",
            help="As printed: one column (3.25 in), two (6.75 in), or inches (5.5 for ICLR and NeurIPS). "
            "Default: as in the report.",
        ),
    ] = None,
) -> None:
    """Draw a figure of a run again, as SVG, PNG or PDF with its font inside.

    Its numbers are written beside it as CSV.

    Example: visprobe figure representation_drift visprobe-compare -o drift.pdf --width one

    Example: visprobe figure imagenet visprobe-compare/report.json
    """
    from visprobe.figures.save import FORMATS, figure_bytes, rows_csv
    from visprobe.io.atomic import write_bytes, write_text
    from visprobe.report.rebuild import read_runs, redraw

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
    drawn = redraw(found[0], name, _inches(width))
    write_bytes(path, figure_bytes(drawn.figure, kind))
    write_text(path.with_suffix(".csv"), rows_csv(drawn.rows))
    print(f"figure: {printable(str(path))}")
    print(f"numbers: {printable(str(path.with_suffix('.csv')))}")
    print(f"caption: {printable(drawn.caption)}")


def _inches(width: str | None) -> float | None:
    """Return the width that `--width` names, in inches."""
    from visprobe.figures.style import ONE_COLUMN, TWO_COLUMNS

    named = {None: None, "one": ONE_COLUMN, "two": TWO_COLUMNS}
    if width in named:
        return named[width]
    try:
        inches = float(str(width).removesuffix("in"))
    except ValueError:
        inches = 0.0
    if not NARROWEST <= inches <= WIDEST:
        raise UsageError(
            f"--width {width} is neither one, two nor a number of inches from {NARROWEST} to {WIDEST}",
            hint="Write --width one for one column of a two-column paper (3.25 inches).",
        )
    return inches
