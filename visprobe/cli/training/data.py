"""`visprobe data`: preparation of training data as in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from visprobe.cli import options as o
from visprobe.cli.output import Bars, print_notes, printable

app = typer.Typer(help="Prepare training data.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    pass


@app.command("mmpr")
def mmpr(
    folder: Annotated[Path, typer.Argument(help="Folder of MMPR: meta.json, annotations and images.")],
    output_dir: o.OutputDir,
    size: Annotated[int, typer.Option(min=1, help="How many rows.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 777,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the tokenizer that counts tokens; without it no row is too long.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of prompt and chosen answer together.")] = 1500,
    max_words: Annotated[
        int | None, typer.Option(min=1, help="Most words of either answer; 29 for the paper's under 30.")
    ] = None,
    no_thought: Annotated[
        bool, typer.Option("--no-thought", help="Leave out rows with a thought (<think>) in either answer.")
    ] = False,
    json: o.Json = False,
    verbose: o.Verbose = None,
) -> None:
    """Draw the paper's subset of MMPR: the same rows for SFT and DPO.

    A manifest says what was left out and why.

    Example: visprobe data mmpr data/MMPR-v1.2 --output-dir rows --tokenizer checkpoints/Qwen2.5-1.5B-Instruct

    Example: visprobe data mmpr data/MMPR-v1.2 --output-dir rows --size 3000 --seed 1

    Example: visprobe data mmpr data/MMPR-v1.2 --output-dir rows --no-thought --max-words 29
    """
    from visprobe.io.atomic import to_json
    from visprobe.training.rows.mmpr import mmpr_subset

    with Bars(verbose) as bars:
        subset = mmpr_subset(
            folder, size=size, seed=seed, max_tokens=max_tokens, tokenizer=tokenizer, max_words=max_words,
            no_thought=no_thought, progress=bars,
        )  # fmt: skip
    paths = subset.write(output_dir)
    print_notes(_notes(subset.manifest))
    if json:
        print(to_json({**subset.manifest, "files": {kind: str(path) for kind, path in paths.items()}}))
    else:
        _print(subset.manifest, paths)


def _notes(manifest: Mapping[str, Any]) -> list[str]:
    notes = []
    if manifest["kept"] < manifest["size"]:
        notes.append(f"only {manifest['kept']} rows could be kept, not {manifest['size']}")
    if manifest["tokenizer"] is None:
        notes.append("rows of any length were kept; the paper's limit of 1500 tokens needs --tokenizer")
    return notes


def _print(manifest: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    print(f"{manifest['kept']} rows kept of {manifest['looked_at']} looked at")
    for reason, count in manifest["left_out"].items():
        print(f"{count:>9}  left out: {reason}")
    for path in paths.values():
        print(printable(str(path)))
