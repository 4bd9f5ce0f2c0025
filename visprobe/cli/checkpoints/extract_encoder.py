"""`visprobe extract-encoder`: the vision encoder of a checkpoint as a folder of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from visprobe.cli import options as o


def command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    output_dir: o.OutputDir,
    json: o.Json = False,
) -> None:
    """Write tower and projector as a standalone folder that transformers loads, with a model card.

    Weights are kept bit for bit in their stored dtype; the language model is never read.

    Example: visprobe extract-encoder checkpoints/sft -o encoders/sft

    Example: visprobe extract-encoder Qwen/Qwen2.5-VL-3B-Instruct -o encoders/qwen
    """
    from visprobe.cli.output import print_notes, print_statements
    from visprobe.encoders.exchange.export import extract_encoder
    from visprobe.io.atomic import to_json

    written = extract_encoder(checkpoint, output_dir)
    encoder = written.encoder
    if json:
        hashes = {"tower_hash": encoder.tower_hash, "projector_hash": encoder.projector_hash}
        print(to_json({"folder": str(written.folder), "tower_class": written.tower_class, **hashes}))
        return
    statements = [
        f"{written.folder}: {written.tower_class}, {encoder.provenance.params:,} weights, read back bit-equal"
    ]
    print_statements(statements)
    if not written.whole:
        print_notes(["visprobe will read this folder as a bare tower; the projector lies in projector.safetensors"])
