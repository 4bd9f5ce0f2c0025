"""Rows from Hugging Face datasets: saved to disk, on the hub, or parquet files as they are published."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image

from visprobe.data.rows import BadRow, Row
from visprobe.data.sources.hf import load_splits
from visprobe.errors import DataError, UsageError
from visprobe.training.rows.combine import Concatenated
from visprobe.training.rows.image_files import decode_image, read_image
from visprobe.training.rows.records import CONVERSATIONS, IMAGES, PROMPTS, image_cells, nearest_format, to_row

BATCH = 1000  # rows hashed at once; part of the hash, so it must not change


class HuggingFaceRows:
    """Rows of one `datasets.Dataset`, which is memory-mapped; image keys are "row/number".

    Args:
        dataset: Dataset with the columns of one of `records.FORMATS`; images embedded or as paths.
        name: Name of the rows, which also starts their ids.
        images: Folder that image paths start from, if images are paths.

    Raises:
        DataError: If there is no column with conversations or prompts.
    """

    def __init__(self, dataset: Any, name: str, images: Path | None = None) -> None:
        columns = set(dataset.column_names)
        if not columns & {*CONVERSATIONS, *PROMPTS, "instruction"} and not {"chosen", "rejected"} <= columns:
            raise DataError(
                f"{name} has the columns {', '.join(dataset.column_names)}; {nearest_format(dataset.column_names)}",
                hint="Rename the columns to those of a format in the guide to training (visprobe train sft --help).",
            )
        self.name = name
        self._rows = _undecoded(dataset)
        self._images = images or Path()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        """Return the row at `index`; raises BadRow if it is unusable."""
        record = self._rows[index]
        keys = tuple(f"{index}/{number}" for number in range(len(image_cells(record))))
        return to_row(record, row_id=f"{self.name}#{index}", images=keys, apart=True)

    def image(self, key: str) -> Image.Image:
        """Return the RGB image of an image key; raises BadRow if it is missing or damaged."""
        index, _, number = key.partition("/")
        cell = image_cells(self._rows[int(index)])[int(number)]
        key = f"{self.name}#{key}"
        if isinstance(cell, dict) and cell.get("bytes") is not None:
            return decode_image(cell["bytes"], key)
        path = cell.get("path") if isinstance(cell, dict) else cell
        if not isinstance(path, str):
            raise BadRow(f"missing image: {key}")
        return read_image(self._images, path)

    def content_hash(self) -> str:
        """Return the SHA-256 over the name and all columns but the images."""
        digest = hashlib.sha256(self.name.encode())
        texts = self._rows.remove_columns([column for column in IMAGES if column in self._rows.column_names])
        for batch in texts.iter(batch_size=BATCH):
            digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def _undecoded(dataset: Any) -> Any:
    """Return the dataset with images as stored bytes, to be decoded one by one by visprobe's own rules."""
    import datasets

    stored = datasets.Image(decode=False)
    for column in IMAGES:
        kind = dataset.features.get(column)
        if isinstance(kind, datasets.Image):
            dataset = dataset.cast_column(column, stored)
        elif isinstance(getattr(kind, "feature", None), datasets.Image):
            dataset = dataset.cast_column(column, datasets.List(stored))
    return dataset


def hf_rows(spec: str, *, split: str = "train", images: Path | None = None) -> HuggingFaceRows:
    """Open the rows of a Hugging Face dataset.

    Args:
        spec: Folder written by `save_to_disk`, or a hub id.
        split: Name of the split, if the dataset has several.
        images: Folder that image paths start from, if images are paths.

    Returns:
        The rows, memory-mapped.

    Raises:
        DataError: If the dataset cannot be read or has other columns.
        UsageError: If there is no such split.
    """
    splits = load_splits(spec)
    if split not in splits and len(splits) > 1:
        raise UsageError(f"{spec} has no split {split!r}", hint=f"It has: {', '.join(splits)}.")
    return HuggingFaceRows(splits.get(split, next(iter(splits.values()))), Path(spec.rstrip("/")).name, images)


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files below `folder`, at any depth, sorted; those in hidden folders are left out."""
    found = sorted(folder.rglob("*.parquet"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def onevision_parquet(folder: Path, images: Path | None = None) -> Concatenated:
    """Open the rows of all parquet files below a folder; each folder that holds some is one subset.

    The columns are id, image (bytes and path), conversations and data_source, or any others that
    `HuggingFaceRows` reads. `datasets` copies the files once into its memory-mapped Arrow form, below
    $HF_DATASETS_CACHE, because parquet gives no random access to rows.

    Args:
        folder: Folder with .parquet files at any depth.
        images: Folder that image paths start from, if images are paths.

    Returns:
        The rows of each subset in turn, subsets in the order of their names.

    Raises:
        DataError: If there is no parquet file, or one cannot be read.
    """
    subsets: dict[Path, list[Path]] = defaultdict(list)
    for path in parquet_files(folder):
        subsets[path.parent].append(path)
    if not subsets:
        raise DataError(f"{folder} holds no parquet file", hint="Name the folder that holds the .parquet files.")
    return Concatenated(folder.name, [_subset(parent, files, images) for parent, files in sorted(subsets.items())])


def _subset(parent: Path, files: list[Path], images: Path | None) -> HuggingFaceRows:
    import datasets

    try:
        dataset = datasets.load_dataset("parquet", data_files=[str(path) for path in files], split="train")
    except Exception as error:  # `datasets` raises a dozen unrelated types
        raise DataError(
            f"cannot read the parquet files of {parent}: {str(error).splitlines()[0][:300] if str(error) else error!r}",
            hint="Download them again; a file may be cut off or a Git LFS pointer.",
        ) from error
    return HuggingFaceRows(dataset, parent.name, images)
