"""`visprobe demo`: training and comparison on built-in data, in minutes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.config_file import origins
from visprobe.cli.output import Bars, printable


def command(
    context: typer.Context,
    output_dir: o.OutputDir = Path("visprobe-demo"),
    fast: Annotated[bool, typer.Option("--fast", help="A smoke run: few steps, few images, under a minute.")] = False,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train the base model too, instead of taking the one that ships.")
    ] = False,
    arms: Annotated[str, typer.Option(help="Arms of the study, with commas: sft, dpo, grpo.")] = "sft,dpo",
    seeds: Annotated[int, typer.Option(min=1, help="Runs per arm; with several, arms are compared over runs.")] = 1,
    seed: o.Seed = 0,
    json: o.Json = False,
    verbose: o.Verbose = None,
) -> None:
    """Post-train a small multimodal LLM by SFT and by DPO, and see what became of its vision encoder.

    Everything is built in: scenes of real handwritten digits, and a base model that this command can also train
    from nothing. Started again, it goes on where it stopped.

    Example: visprobe demo

    Example: visprobe demo --fast --output-dir smoke

    Example: visprobe demo --arms sft,dpo,grpo --seeds 3 --output-dir study
    """
    from visprobe.cli.present import command_line, finish, show, show_json
    from visprobe.training.launch import require_training

    require_training()
    from visprobe.demo.run import demo
    from visprobe.report.write import write_report

    with Bars(verbose) as bars:
        chosen = [arm.strip() for arm in arms.split(",") if arm.strip()]
        measured = demo(
            output_dir, arms=chosen, seeds=seeds, fast=fast, from_scratch=from_scratch, seed=seed, progress=bars
        )
        document = measured.document(command_line(), origins(context))
        page = write_report(output_dir / "report", document)
    if json:
        show_json(document)
    else:
        show(measured, page=page)
        print(f"checkpoints: {' '.join(printable(shlex.quote(str(one['path']))) for one in measured.checkpoints)}")
        print("next, with checkpoints and images of your own: visprobe compare BASE SFT DPO --data IMAGES")
    finish(measured, "0")
