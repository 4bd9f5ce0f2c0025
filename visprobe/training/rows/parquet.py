"""Rows from folders of parquet files, as LLaVA-OneVision-Data is published."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from visprobe.errors import DataError
from visprobe.training.rows.combine import Concatenated
from visprobe.training.rows.hf import HuggingFaceRows


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files below `folder`, at any depth, sorted; those in hidden folders are left out."""
    found = sorted(folder.rglob("*.parquet"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def onevision_parquet(folder: Path, images: Path | None = None) -> Concatenated:
    """Rows of all parquet files below a folder; each folder that holds some is one subset.

    The columns are id, image (bytes and path), conversations and data_source, or any others that
    `HuggingFaceRows` reads. `datasets` copies the files once into its own memory-mapped form, below
    $HF_DATASETS_CACHE: parquet itself gives no access to single rows.

    Args:
        folder: The folder.
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
    except Exception as error:  # the library raises a dozen unrelated types
        raise DataError(
            f"cannot read the parquet files of {parent}: {str(error).splitlines()[0][:300] if str(error) else error!r}",
            hint="Download them again; a file may be cut off or a Git LFS pointer.",
        ) from error
    return HuggingFaceRows(dataset, parent.name, images)
