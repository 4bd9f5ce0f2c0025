"""Opening of training rows from a path, hub id or built-in name."""

from __future__ import annotations

from pathlib import Path

from visprobe.data.named import named_data
from visprobe.data.rows import Rows
from visprobe.data.sources.hf import MARKERS
from visprobe.errors import DataError
from visprobe.training.rows.hf import hf_rows, onevision_parquet, parquet_files
from visprobe.training.rows.llava import llava_json
from visprobe.training.rows.mixture import is_braces, mixture
from visprobe.training.rows.mmpr import META, mmpr

READABLE = (
    "visprobe reads 'digits', a .json or .jsonl file, a .yaml mixture, 'folder/{a,b}.json', a folder with MMPR's "
    "meta.json, a folder of .parquet files, a folder written by datasets.save_to_disk, or a hub id."
)


def open_rows(spec: str, images: Path | None = None, split: str = "train", seed: int = 0) -> Rows:
    """Open training rows of any format that visprobe reads.

    Args:
        spec: "digits", a file, a folder or a hub id; the content found there decides the format.
        images: Folder that image paths start from; by default the folder of the JSON file.
        split: Split of a Hugging Face dataset.
        seed: Seed of a mixture's samples and of the built-in scenes.

    Returns:
        The rows, read one at a time.

    Raises:
        DataError: If nothing readable is there; the message names what was found.
        UsageError: If a mixture is malformed or a split does not exist.
    """
    path = Path(spec).expanduser()
    if named := named_data(spec):
        return named.rows(None, seed)
    if path.is_dir():
        return _open_folder(path, images, split)
    if is_braces(spec) or path.suffix in (".yaml", ".yml"):
        return mixture(str(path), images, seed=seed)
    if path.is_file() or path.suffix in (".json", ".jsonl"):
        return _open_file(path, images)
    if spec.count("/") > 1 or spec.startswith((".", "/", "~")):
        raise DataError(f"{spec} does not exist", hint=READABLE)
    return hf_rows(spec, split=split, images=images)


def _open_file(path: Path, images: Path | None) -> Rows:
    if path.suffix not in (".json", ".jsonl"):
        raise DataError(f"{path} is a {path.suffix or 'nameless'} file", hint=READABLE)
    return llava_json(path, images)


def _open_folder(folder: Path, images: Path | None, split: str) -> Rows:
    if any((folder / marker).is_file() for marker in MARKERS):
        return hf_rows(str(folder), split=split, images=images)
    if (folder / META).is_file():
        return mmpr(folder)
    if parquet_files(folder):
        return onevision_parquet(folder, images)
    inside = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    raise DataError(f"{folder} holds no rows, only: {', '.join(inside[:8]) or 'nothing'}"[:400], hint=READABLE)
