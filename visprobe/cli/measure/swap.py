"""`visprobe swap`: exchange of encoder parts between two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from visprobe.cli.common_options import Common, measuring, run
from visprobe.cli.output import print_notes, print_statements, print_table
from visprobe.errors import UsageError
from visprobe.report.numbers import interval_text, value_text
from visprobe.results.result import Result

if TYPE_CHECKING:
    from visprobe.pipelines.measurement import Measurement

HEADINGS = {"sufficient": "put in alone", "necessary": "taken out alone", "cumulative": "all up to it put in"}


@measuring(output_dir=Path("visprobe-swap"))
def command(
    common: Common,
    base: Annotated[str, typer.Argument(help="Checkpoint that parts are put into: folder or hub id.")],
    other: Annotated[str, typer.Argument(help="Checkpoint that they come from.")],
    by: Annotated[
        Literal["blocks", "groups"],
        typer.Option(help="Exchange each block by itself, or groups of neighbouring blocks."),
    ] = "blocks",
    steps: Annotated[int | None, typer.Option(min=1, help="How many groups, with --by groups; default 4.")] = None,
) -> None:
    """Which part of the encoder carries the difference between two checkpoints.

    Parts of OTHER are put into BASE, and of BASE into OTHER, one at a time.
    Writes report.html, report.json and the figures into the output folder.

    Example: visprobe swap checkpoints/base checkpoints/dpo --data ILSVRC2012 --limit 5000

    Example: visprobe swap checkpoints/sft checkpoints/dpo --data digits --by groups --steps 3
    """
    from visprobe.pipelines.swap import swap

    def show(measured: Measurement) -> None:
        _print_parts(measured.results[0])
        print_statements([statement.text for statement in measured.verdict])
        print_notes([*measured.warnings, *measured.results[0].warnings])

    if steps is not None and by == "blocks":
        raise UsageError("--steps says how many groups, and --by is blocks", hint="Add --by groups.")
    run(
        common,
        lambda how: swap(base, other, common.data, how, by, steps or 4),
        show_as=None if common.verbose else show,
    )


def _print_parts(result: Result) -> None:
    """Print one table per measure: a line per part, a column per direction of the exchange."""
    from visprobe.report.presentations import presentation_of

    base, other = result.base, result.settings["other"]
    titles = presentation_of(result.analysis).titles
    for measure in dict.fromkeys(row.measure for row in result.rows):
        steps = [
            row for row in result.select(measure=measure, role="difference") if row.site in result.settings["parts"]
        ]
        columns = [*dict.fromkeys((row.checkpoint, row.reference) for row in steps)]
        cells = {
            (row.site, row.checkpoint): f"{value_text(row.estimate, row.role)} {interval_text(row.estimate, row.role)}"
            for row in steps
        }
        print_table(
            f"{titles[measure]}: {other} against {base}",
            [
                "part",
                *(f"{HEADINGS[way]} − {reference}" for way, (_, reference) in zip(HEADINGS, columns, strict=True)),
            ],
            [[part, *(cells[part, name] for name, _ in columns)] for part in result.settings["parts"]],
        )
