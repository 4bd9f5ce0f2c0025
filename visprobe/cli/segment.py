"""`visprobe segment`: what is where in images, read from frozen patch features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from visprobe.analyses.result import Result
from visprobe.cli import options as o
from visprobe.cli.output import Bars
from visprobe.errors import UsageError

_LONG = 80  # rows of a table that can be read on a terminal


def command(
    ckpt: Annotated[
        list[str], typer.Option("--ckpt", help="Checkpoint folder or hub id; repeat it, the first is the base.")
    ],
    data: o.Data,
    head: Annotated[
        Literal["linear", "mlp", "both"],
        typer.Option(help="Head on the patch features: linear, or with a hidden layer."),
    ] = "linear",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each head.")] = 3,
    ignored: Annotated[
        list[int] | None, typer.Option(help="Number in the masks that is no class; repeatable. 255 never is one.")
    ] = None,
    background: Annotated[
        int | None, typer.Option(help="Class that a patch holds only if it holds no other; 0 of ADE20K as published.")
    ] = None,
    protocol: Annotated[
        Literal["paper"] | None, typer.Option(help="Also the published protocol, and how much of it is its leak.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=5, help="Steps of each training, if five epochs are fewer. Default 300.")
    ] = None,
    output_dir: o.OutputDir = Path("visprobe-segment"),
    split: o.Split = None,
    limit: o.Limit = None,
    batch_size: o.BatchSize = 64,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    tiles: o.Tiles = False,
    seed: o.Seed = 0,
    max_bad: o.MaxBad = "1%",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """What is where in an image: small heads on frozen patch features, by pixel (mIoU) and by patch.

    Data are images with masks: images/ and masks/ (or annotations/) with train and val inside, ADE20K, Pascal VOC,
    COCO-stuff, a dataset with two image columns, or 'digits'. Heads learn from the train split.

    Example: visprobe segment --ckpt ckpt/base --ckpt ckpt/sft --ckpt ckpt/dpo --data ADEChallengeData2016 -o report

    Example: visprobe segment --ckpt ckpt/sft --data CamVid --ignored 11 --head both --json
    """
    from visprobe.analyses.segment import asking
    from visprobe.analyses.segment_setting import Asked
    from visprobe.cli.measured import command_line, finish, show
    from visprobe.report.measure import measure
    from visprobe.report.measurement import Options
    from visprobe.report.write import write_report

    if protocol and head == "linear":
        raise UsageError("--protocol paper trains two-layer heads", hint="Add --head mlp or --head both.")
    heads: tuple[Literal["linear", "mlp"], ...] = ("linear", "mlp") if head == "both" else (head,)
    asked = Asked(heads, seeds, tuple(ignored or ()), background, protocol == "paper", steps)
    with Bars(quiet) as bars:
        how = Options(split, limit, batch_size, device, dtype, seed, progress=bars, tiles=tiles)
        measured = measure(ckpt, data, [asking(asked)], how)
        page = write_report(output_dir, measured.document(command_line()))
    if json:
        show(measured, as_json=True)
    else:
        show(replace(measured, results=tuple(map(_short, measured.results))), as_json=False, page=page)
    finish(measured, max_bad)


def _short(result: Result) -> Result:
    """What reads on a terminal: of many rows those where the language model reads."""
    read = tuple(row for row in result.rows if row.site == result.settings["consumed"])
    return result if len(result.rows) <= _LONG else replace(result, rows=read)
