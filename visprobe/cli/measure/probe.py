"""`visprobe probe`: linear probes on the features of encoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from visprobe.cli import options as o
from visprobe.cli.common_options import Common, measuring, run
from visprobe.errors import UsageError
from visprobe.results.result import Result

_MAIN = ("probe_top1", "probe_of_5", "probe_control", "probe_map", "probe_macro_auroc", "probe_r2")
_LONG = 40  # rows that still read on a terminal


@measuring(output_dir=Path("visprobe-probe"))
def command(
    common: Common,
    ckpt: o.Ckpt,
    targets: Annotated[
        str, typer.Option(help="What is read: classes, labels, numbers, or the name of one target. Default: classes.")
    ] = "auto",
    sites: Annotated[
        Literal["read", "all"], typer.Option(help="Where the language model reads, or at every site.")
    ] = "read",
    per_class: Annotated[str, typer.Option(help="Labelled images per class, with commas.")] = "1,5,10,50",
    seeds: Annotated[int, typer.Option(min=2, help="Draws of these.")] = 5,
) -> None:
    """What a linear probe reads from encoders: classes, labels or numbers.

    An untrained tower and control labels stand beside it. Probes learn from the train split, or from half of the images
    where there is only one split.

    Example: visprobe probe --ckpt checkpoints/base --ckpt checkpoints/dpo --data ILSVRC2012 --subset-per-class 50

    Example: visprobe probe --ckpt checkpoints/base --ckpt checkpoints/dpo --data digits --sites all

    Example: visprobe probe --ckpt checkpoints/sft --data digits --targets labels --json
    """
    from visprobe.pipelines.single import probe

    numbers = _numbers(per_class)
    run(
        common,
        lambda how: probe(ckpt, common.data, how, targets=targets, sites=sites, per_class=numbers, seeds=seeds),
        short=_short,
    )


def _short(result: Result) -> Result:
    """Cut a result to its main measures where the language model reads, with differences to the base only."""
    base, read = result.base, {result.consumed, "projected"}
    rows = [row for row in result.rows if row.site in read and row.reference in (None, base)]
    numbers = [row for row in rows if row.measure.startswith("probe_r2_")]
    main = [row for row in rows if row.measure in _MAIN]
    return replace(result, rows=(*main, *(numbers if len(main) + len(numbers) <= _LONG else ())))


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--per-class {text!r} is no list of numbers", hint="Write --per-class 1,5,10,50.")
    return tuple(sorted({int(part) for part in parts}))
