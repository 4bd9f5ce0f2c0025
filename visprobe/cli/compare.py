"""`visprobe compare`: what post-training did to the vision encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.output import Bars
from visprobe.errors import UsageError


def command(
    data: o.Data,
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, the first is the base: folders, hub ids, 'A\\[blocks 0-11 <- B]'."),
    ] = None,
    trajectory: Annotated[
        list[Path] | None,
        typer.Option(help="Follow the tower copies of a training run instead; repeat for runs of one base."),
    ] = None,
    analyses: Annotated[
        str | None, typer.Option(help="What is asked, by name, with commas; default imagenet,drift,weights.")
    ] = None,
    same_recipe: Annotated[
        list[str] | None,
        typer.Option(help="Another seed of a checkpoint's recipe, to read differences against; repeatable."),
    ] = None,
    output_dir: o.OutputDir = Path("visprobe-compare"),
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
    r"""Where and how far each checkpoint's encoder moved from the first one's, and whether it sees better.

    Writes report.html, report.json and the figures into the output folder.

    Example: visprobe compare checkpoints/base checkpoints/sft checkpoints/dpo --data ILSVRC2012 --limit 5000

    Example: visprobe compare checkpoints/base checkpoints/dpo --data digits --json

    Example: visprobe compare ckpt/base ckpt/sft 'ckpt/sft\[blocks 0-5 <- ckpt/dpo]' --data digits

    Example: visprobe compare --trajectory checkpoints/sft --trajectory checkpoints/dpo --data digits
    """
    from visprobe.cli.measured import command_line, finish, show
    from visprobe.report.compare import compare
    from visprobe.report.measurement import Options
    from visprobe.report.trajectory import trajectory as follow
    from visprobe.report.write import write_report

    if trajectory and (analyses is not None or same_recipe):
        raise UsageError(
            "--analyses and --same-recipe do not apply to --trajectory", hint="Leave them out, or compare checkpoints."
        )
    with Bars(quiet) as bars:
        how = Options(split, limit, batch_size, device, dtype, seed, progress=bars, pixels=pixels, tiles=tiles)
        how = replace(how, same_recipe=tuple(same_recipe or ()), labels=labels, subset_per_class=subset_per_class)
        if analyses is not None:
            how = replace(how, analyses=tuple(name.strip() for name in analyses.split(",")))
        if trajectory:
            measured = follow(trajectory, data, how, _only_base(checkpoints or []))
        else:
            measured = compare(checkpoints or [], data, how)
        page = write_report(output_dir, measured.document(command_line()))
    show(measured, as_json=json, page=page)
    finish(measured, max_bad)


def _only_base(checkpoints: list[str]) -> Path | None:
    if len(checkpoints) > 1:
        raise UsageError(
            f"--trajectory takes one checkpoint beside the runs, their base; {len(checkpoints)} are given",
            hint="visprobe compare BASE --trajectory RUN --data DATA",
        )
    return Path(checkpoints[0]) if checkpoints else None
