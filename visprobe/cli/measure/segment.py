"""`visprobe segment`: segmentation heads on frozen patch features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from visprobe.cli import options as o
from visprobe.cli.common_options import Common, measuring, run
from visprobe.errors import UsageError
from visprobe.results.result import Result

_LONG = 80  # rows above which a table is cut on a terminal


@measuring(without=("labels", "subset_per_class", "pixels"), output_dir=Path("visprobe-segment"))
def command(
    common: Common,
    ckpt: o.Ckpt,
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
) -> None:
    """What is where in an image: small heads on frozen patch features, by pixel (mIoU) and by patch.

    Data are images with masks: images/ and masks/ (or annotations/) with train and val inside, ADE20K, Pascal VOC,
    COCO-stuff, a dataset with two image columns, or 'digits'. Heads learn from the train split.

    Example: visprobe segment --ckpt checkpoints/base --ckpt checkpoints/sft --ckpt checkpoints/dpo
    --data ADEChallengeData2016 -o report

    Example: visprobe segment --ckpt checkpoints/sft --data CamVid --ignored 11 --head both --json
    """
    from visprobe.pipelines.single import segment

    if protocol and head == "linear":
        raise UsageError("--protocol paper trains two-layer heads", hint="Add --head mlp or --head both.")
    heads: tuple[Literal["linear", "mlp"], ...] = ("linear", "mlp") if head == "both" else (head,)
    run(
        common,
        lambda how: segment(
            ckpt, common.data, how, heads=heads, seeds=seeds, ignored=ignored or (), background=background,
            paper=protocol == "paper", steps=steps,
        ),
        short=_short,
    )  # fmt: skip


def _short(result: Result) -> Result:
    """Cut a long result to the rows where the language model reads."""
    read = tuple(row for row in result.rows if row.site == result.consumed)
    return result if len(result.rows) <= _LONG else replace(result, rows=read)
