"""`visprobe align`: vision features against language models, and against the MLLM's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from visprobe.cli import options as o
from visprobe.cli.common_options import Common, measuring, run


@measuring(without=("labels", "subset_per_class"), output_dir=Path("visprobe-align"))
def command(
    common: Common,
    ckpt: o.Ckpt,
    lm: Annotated[
        list[str] | None,
        typer.Option("--lm", help="Language model, a folder or hub id, to align with; repeatable. Needs captions."),
    ] = None,
    protocol: Annotated[
        Literal["fixed", "paper"],
        typer.Option(help="fixed: fixed layers, and the largest; paper: the largest over layers of clamped features."),
    ] = "fixed",
) -> None:
    """How far an encoder's features agree with language models, and which words of its LLM are nearest.

    Language models read captions. Without --lm only the words are looked at; they need no captions.

    Example: visprobe align --ckpt checkpoints/sft --ckpt checkpoints/dpo --data wit_1024 --lm Qwen/Qwen2.5-1.5B

    Example: visprobe align --ckpt checkpoints/base --ckpt checkpoints/dpo --data digits
    """
    from visprobe.pipelines.single import align

    run(common, lambda how: align(ckpt, common.data, how, language_models=lm or (), protocol=protocol))
