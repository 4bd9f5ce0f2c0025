"""`visprobe transplant`: a copy of one checkpoint with the vision tower of another."""

from __future__ import annotations

from typing import Annotated

import typer

from visprobe.cli import options as o


def command(
    tower: Annotated[str, typer.Option(help="Checkpoint that gives its vision tower.")],
    into: Annotated[str, typer.Option(help="Checkpoint folder that gives everything else.")],
    output_dir: o.OutputDir,
    json: o.Json = False,
) -> None:
    """Write a copy of one multimodal model whose vision tower is another's.

    Both towers must have one architecture; for another one train a new projector with visprobe train pivot.

    Example: visprobe transplant --tower checkpoints/dpo --into checkpoints/sft -o checkpoints/sft-with-dpo-tower

    Example: visprobe transplant --tower checkpoints/sft --into checkpoints/base -o checkpoints/base-sees-as-sft --json
    """
    from visprobe.cli.output import print_statements
    from visprobe.encoders.exchange.transplant import transplant
    from visprobe.io.atomic import to_json

    done = transplant(tower, into, output_dir)
    if json:
        counts = {"tensors": done.tensors, "rounded": done.rounded, "tower_hash": done.encoder.tower_hash}
        print(to_json({"folder": str(output_dir), **counts}))
        return
    rounded = f", {done.rounded} of them rounded to the dtype stored there" if done.rounded else ", bit for bit"
    print_statements(
        [f"{output_dir}: {done.tensors} tensors of the tower replaced{rounded}; everything else is {into}'s"]
    )
