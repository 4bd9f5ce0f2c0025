"""Names of splits, and files sorted by the split that their names say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from visprobe.errors import DataError

TRAIN = ("train", "training")
VAL = ("val", "validation", "valid", "test")
SPLITS = TRAIN + VAL


def by_split(split_of: Mapping[Path, str | None], folder: Path) -> dict[str, list[Path]]:
    """Files by split; one split "data" where no name says a split.

    Raises:
        DataError: If only some names say their split.
    """
    unnamed = [path for path, split in split_of.items() if split is None]
    if unnamed and len(unnamed) < len(split_of):
        raise DataError(
            f"{len(unnamed)} of {len(split_of)} files of {folder} do not say their split, the first {unnamed[0].name}",
            hint="Name all files after their split, as train-0000 and val-0000, or none.",
        )
    splits: dict[str, list[Path]] = {}
    for path, split in split_of.items():
        splits.setdefault(split or "data", []).append(path)
    return splits
