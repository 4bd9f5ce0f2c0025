"""`visprobe swap`: which part of the encoder carries the difference between two checkpoints."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from visprobe.analyses.result import Result
from visprobe.cli import options as o
from visprobe.cli.output import Bars, print_notes, print_statements, print_table, printable
from visprobe.errors import UsageError
from visprobe.report.numbers import interval_text, value_text
from visprobe.report.tables import TITLES

HEADINGS = {"sufficient": "put in alone", "necessary": "taken out alone", "cumulative": "all up to it put in"}


class By(StrEnum):
    """What a part is."""

    blocks = "blocks"
    groups = "groups"


def command(
    base: Annotated[str, typer.Argument(help="Checkpoint that parts are put into: folder or hub id.")],
    other: Annotated[str, typer.Argument(help="Checkpoint that they come from.")],
    data: o.Data,
    by: Annotated[
        By, typer.Option(help="Exchange each block by itself, or groups of neighbouring blocks.")
    ] = By.blocks,
    steps: Annotated[int | None, typer.Option(min=1, help="How many groups, with --by groups; default 4.")] = None,
    output_dir: o.OutputDir = Path("visprobe-swap"),
    split: o.Split = None,
    limit: o.Limit = None,
    labels: o.Labels = None,
    subset_per_class: o.SubsetPerClass = None,
    batch_size: o.BatchSize = 64,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    pixels: o.Pixels = 448 * 448,
    tiles: o.Tiles = False,
    seed: o.Seed = 0,
    max_bad: o.MaxBad = "1%",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Which part of the encoder carries the difference: parts of OTHER in BASE, of BASE in OTHER, one at a time.

    Writes report.html, report.json and the figures into the output folder.

    Example: visprobe swap checkpoints/base checkpoints/dpo --data ILSVRC2012 --limit 5000

    Example: visprobe swap checkpoints/sft checkpoints/dpo --data digits --by groups --steps 3
    """
    from visprobe.cli.measured import command_line, finish, show
    from visprobe.report.measurement import Options
    from visprobe.report.swap import swap
    from visprobe.report.write import write_report

    if steps is not None and by is By.blocks:
        raise UsageError("--steps says how many groups, and --by is blocks", hint="Add --by groups.")
    with Bars(quiet) as bars:
        how = Options(split, limit, batch_size, device, dtype, seed, progress=bars, pixels=pixels, tiles=tiles)
        how = replace(how, labels=labels, subset_per_class=subset_per_class)
        measured = swap(base, other, data, how, by.value, steps or 4)
        page = write_report(output_dir, measured.document(command_line()))
    if json:
        show(measured, as_json=True)
    else:
        _print_parts(measured.results[0])
        print_statements([statement.text for statement in measured.verdict])
        print_notes([*measured.warnings, *measured.results[0].warnings])
        print(f"\nreport: {printable(str(page))}")
    finish(measured, max_bad)


def _print_parts(result: Result) -> None:
    """One table per measure: a line per part, a column per way of exchanging it; the report has the rest."""
    base, other = result.settings["base"], result.settings["other"]
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
            f"{TITLES[measure]}: {other} against {base}",
            [
                "part",
                *(f"{HEADINGS[way]} − {reference}" for way, (_, reference) in zip(HEADINGS, columns, strict=True)),
            ],
            [[part, *(cells[part, name] for name, _ in columns)] for part in result.settings["parts"]],
        )
