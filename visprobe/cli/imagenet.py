"""`visprobe imagenet`: class-prototype accuracy of encoders."""

from __future__ import annotations

from typing import Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.output import Bars


def command(
    ckpt: Annotated[
        list[str], typer.Option("--ckpt", help="Checkpoint folder or hub id; repeat it to measure several.")
    ],
    data: o.Data,
    split: o.Split = None,
    limit: o.Limit = None,
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
    """How well encoders tell classes apart: nearest class prototype, before and after the projector.

    Prototypes come from the train split, or leave-one-out where there is only one split.

    Example: visprobe imagenet --ckpt checkpoints/sft --ckpt checkpoints/dpo --data ILSVRC2012

    Example: visprobe imagenet --ckpt checkpoints/sft --data digits --json
    """
    from visprobe.cli.measured import finish, show
    from visprobe.report.measure import imagenet
    from visprobe.report.measurement import Options

    with Bars(quiet) as bars:
        how = Options(split, limit, batch_size, device, dtype, seed, progress=bars, pixels=pixels, tiles=tiles)
        measured = imagenet(ckpt, data, how)
    show(measured, as_json=json)
    finish(measured, max_bad)
