"""MMPR: preference pairs in annotation files that meta.json lists with their image folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visprobe.errors import DataError
from visprobe.io.regular import read_text
from visprobe.training.rows.combine import Concatenated
from visprobe.training.rows.llava import LlavaRows

META = "meta.json"


@dataclass(frozen=True)
class Source:
    """One annotation file of MMPR.

    Attributes:
        name: Its name in meta.json.
        annotation: Path of the JSON Lines file, relative to the folder of MMPR.
        root: Folder of its images, relative to the folder of MMPR.
    """

    name: str
    annotation: str
    root: str


def sources(folder: Path) -> tuple[Source, ...]:
    """The annotation files in the order of meta.json.

    Paths in meta.json start from the folder, or from above it ("MMPR-v1.2/annotations/…"); both are found.

    Raises:
        DataError: If meta.json or an annotation file is missing, or meta.json is something else.
    """
    try:
        meta = json.loads(read_text(folder / META))
        found = tuple(
            Source(name, _inside(folder, info["annotation"]), _inside(folder, info["root"]))
            for name, info in meta.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"cannot read {folder / META} ({type(error).__name__}: {error})",
            hint='Name the folder of MMPR; its meta.json maps names to {"root", "annotation"}.',
        ) from error
    missing = [source.annotation for source in found if not (folder / source.annotation).is_file()]
    if missing or not found:
        raise DataError(
            f"{len(missing)} of {len(found)} annotation files are missing in {folder}: {', '.join(missing[:3])}",
            hint="Unpack annotations.zip of MMPR in that folder.",
        )
    return found


def _inside(folder: Path, path: Any) -> str:
    text = str(path).rstrip("/")
    shorter = text.partition("/")[2]
    return shorter if shorter and not (folder / text).exists() and (folder / shorter).exists() else text


def mmpr(folder: Path) -> Concatenated:
    """All rows of MMPR as published, each once: images, question, chosen and rejected answer.

    Args:
        folder: The folder of meta.json.

    Returns:
        The rows file by file; the group of a row is the name of its file in meta.json.

    Raises:
        DataError: If meta.json or an annotation file is missing.
    """
    parts = [LlavaRows(folder / s.annotation, folder / s.root, group=s.name) for s in sources(folder)]
    return Concatenated(folder.name, parts)
