"""`visprobe align`: vision features against language models, and against the MLLM's own words."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.output import Bars


class Protocol(StrEnum):
    """How alignment with language models is measured."""

    FIXED = "fixed"
    PAPER = "paper"


def command(
    ckpt: Annotated[
        list[str], typer.Option("--ckpt", help="Checkpoint folder or hub id; repeat it to measure several.")
    ],
    data: o.Data,
    lm: Annotated[
        list[str] | None,
        typer.Option("--lm", help="Language model, a folder or hub id, to align with; repeatable. Needs captions."),
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(help="fixed: fixed layers, and the largest; paper: the largest over layers of clamped features."),
    ] = Protocol.FIXED,
    output_dir: o.OutputDir = Path("visprobe-align"),
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
    """How an encoder's features lie to language: to language models given captions, and to its own LLM's words.

    Without --lm only the words are looked at; they need no captions.

    Example: visprobe align --ckpt checkpoints/sft --ckpt checkpoints/dpo --data wit_1024 --lm Qwen/Qwen2.5-1.5B

    Example: visprobe align --ckpt checkpoints/base --ckpt checkpoints/dpo --data digits
    """
    from visprobe.analyses.align import align_analysis
    from visprobe.analyses.words import WORDS
    from visprobe.cli.measured import command_line, finish, show
    from visprobe.features.store import FeatureStore, default_folder
    from visprobe.features.text import LanguageModel, TextFeatures
    from visprobe.report.measure import measure
    from visprobe.report.measurement import Options
    from visprobe.report.session import run_on
    from visprobe.report.write import write_report

    with Bars(quiet) as bars:
        how = Options(split, limit, batch_size, device, dtype, seed, progress=bars, pixels=pixels, tiles=tiles)
        device_of, dtype_of = run_on(how)
        models = [LanguageModel(spec, device_of, dtype_of) for spec in dict.fromkeys(lm or [])]
        store = FeatureStore(default_folder())

        def texts(captions: Sequence[str]) -> list[TextFeatures]:
            return [model.features(captions, store, bars) for model in models]

        aligned = [align_analysis(texts, protocol.value)] if models else []
        measured = measure(ckpt, data, [*aligned, WORDS], how)
        page = write_report(output_dir, measured.document(command_line()))
    show(measured, as_json=json, page=page)
    finish(measured, max_bad)
