"""Options that mean the same in every command."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from visprobe.errors import PrerequisiteError, UsageError

Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="Folder of images (train/ and val/ inside, one folder per class, or plain), of parquet or tar shards, "
        "saved or hub dataset, or 'digits' for the built-in scenes.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Split to measure. Default: val, validation, valid or test.")]
Limit = Annotated[int | None, typer.Option(help="At most so many images of each split, evenly over the classes.")]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", help="Classes of the measured images: one per line, or lines 'file class' (txt, csv)."),
]
SubsetPerClass = Annotated[int | None, typer.Option(help="At most so many training images of each class.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images per forward pass.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16: number format of the encoders' arithmetic.")]
Pixels = Annotated[
    int, typer.Option(min=1, help="Pixels per image for towers of native resolution (Qwen-VL, Pixtral, NaFlex).")
]
Tiles = Annotated[bool, typer.Option("--tiles", help="Read the tiles too, where a model cuts images into tiles.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
MaxBad = Annotated[
    str,
    typer.Option(
        help="How many images may be unusable before exit code 3: a number or 'P%'.",
        callback=lambda text: _checked(text),  # before any work is done
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
OutputDir = Annotated[
    Path,
    typer.Option(
        "--output-dir",
        "-o",
        help="Folder that is written.",
        callback=lambda path: writable(path),  # before any work is done
    ),
]


def writable(path: Path) -> Path:
    """`path`, if a folder can be written there; refused before any work is done."""
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir():
        raise UsageError(f"--output-dir {path}: {existing} is a file", hint="Name a folder, or a new one.")
    if not os.access(existing, os.W_OK):
        raise PrerequisiteError(f"--output-dir {path}: {existing} cannot be written", hint="Name another folder.")
    return path


def _checked(text: str) -> str:
    allowed_bad(text, 100)
    return text


def allowed_bad(text: str, total: int) -> int:
    """How many of `total` images may be bad, from "N" or "P%".

    Raises:
        UsageError: If the text is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    if not match or (not match[2] and "." in match[1]):
        raise UsageError(f"--max-bad {text!r} is neither a number nor a percentage", hint="Write 20 or 1%.")
    return int(float(match[1]) * total / 100) if match[2] else int(match[1])
