"""Options that mean the same in every command."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from visprobe.cli.config_file import read_config
from visprobe.data.allowed_bad import allowed_bad
from visprobe.errors import PrerequisiteError, UsageError

IMAGES, RUNNING, OUTPUT = "Images", "How it runs", "What comes out"
AUTO = "auto"

Ckpt = Annotated[
    list[str], typer.Option("--ckpt", help="Checkpoint folder or hub id; repeat it, the first is the base.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="Folder of images (train/ and val/ inside, one folder per class, or plain), of parquet or tar shards, "
        "saved or hub dataset, or 'digits' for the built-in scenes.",
        rich_help_panel=IMAGES,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="Split to measure. Default: val, else test, by any usual name.", rich_help_panel=IMAGES),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="At most so many images of each split, evenly over the classes.", rich_help_panel=IMAGES),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="Classes of the measured images: a file (one class per line, lines 'file class', csv, JSON), or the name "
        "of the column that holds them.",
        rich_help_panel=IMAGES,
    ),
]
SubsetPerClass = Annotated[
    int | None, typer.Option(min=1, help="At most so many training images of each class.", rich_help_panel=IMAGES)
]
MaxBad = Annotated[
    str,
    typer.Option(
        help="How many images may be unusable before exit code 3: a number or 'P%'.",
        callback=lambda text: _checked(text),  # before any work is done
        rich_help_panel=IMAGES,
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        "-b",
        help="Images per forward pass. auto: 64 (8 for maps), halved where the accelerator's memory is too small.",
        callback=lambda text: str(_at_a_time(text) or AUTO),
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUNNING)]
Dtype = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16 or float16: number format of the encoders' arithmetic.", rich_help_panel=RUNNING
    ),
]
Pixels = Annotated[
    int,
    typer.Option(
        min=1,
        help="Pixels per image for towers of native resolution (Qwen-VL, Pixtral, NaFlex).",
        rich_help_panel=RUNNING,
    ),
]
Tiles = Annotated[
    bool,
    typer.Option("--tiles", help="Read the tiles too, where a model cuts images into tiles.", rich_help_panel=RUNNING),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random choice.", rich_help_panel=RUNNING)]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-C",
        help="YAML file with options of this command by their long names; the command line and the environment win.",
        callback=read_config,
        is_eager=True,
        rich_help_panel=RUNNING,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume", help="Use features and maps that earlier runs left, or make them anew.",
        rich_help_panel=RUNNING,
    ),
]  # fmt: skip
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", help="Ask no hub: only what is on this machine.", callback=lambda wanted: _stay_offline(wanted),
        is_eager=True, rich_help_panel=RUNNING,
    ),
]  # fmt: skip
OutputDir = Annotated[
    Path,
    typer.Option(
        "--output-dir",
        "-o",
        help="Folder that is written.",
        callback=lambda path: path and writable(path),  # before any work is done
        rich_help_panel=OUTPUT,
    ),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        help="Exit code 3 if a number's whole interval is beyond: 'drift>0.05', 'cka@projected<0.99', 'top1-base<-1%'; "
        "repeatable.",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout instead of tables.", rich_help_panel=OUTPUT)
]
Verbose = Annotated[
    bool | None,
    typer.Option(
        "--verbose/--quiet",
        "-v/-q",
        help="Say what is read and how long it takes, and show every row; or no progress at all.",
        show_default="progress",
        rich_help_panel=OUTPUT,
    ),
]


def writable(path: Path) -> Path:
    """Return `path` if a folder can be written there; refuse it before any work is done."""
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir():
        raise UsageError(f"--output-dir {path}: {existing} is a file", hint="Name a folder, or a new one.")
    if not os.access(existing, os.W_OK):
        raise PrerequisiteError(f"--output-dir {path}: {existing} cannot be written", hint="Name another folder.")
    return path


def _checked(text: str) -> str:
    allowed_bad(text, 100)
    return text


def _at_a_time(text: str) -> int | None:
    """Return the batch size, or None for "auto"."""
    if text.strip() == AUTO:
        return None
    if not re.fullmatch(r"0*[1-9]\d*", text.strip()):
        raise UsageError(f"--batch-size {text!r} is neither auto nor a positive number", hint="Write auto or 32.")
    return int(text)


def _stay_offline(wanted: bool) -> bool:
    if wanted:  # read by huggingface_hub, transformers and datasets when they are first imported
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return wanted
