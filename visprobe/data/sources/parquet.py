"""Image sets from parquet shards, the format of the Hugging Face hub, read in place."""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from visprobe.data.layout.splits import by_split, files_in, in_split_folders, splits_among
from visprobe.data.sources.hf import DescribedRows, only_image_column
from visprobe.errors import DataError

HELD = 2  # row groups in memory: the current one, and its neighbour for threads that read across a border
_SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d{5})-of-(?P<total>\d{5})(?:-[0-9a-f]+)?")


class ParquetImages(DescribedRows):
    """Split of parquet shards with an image column and perhaps labels, targets and captions.

    Nothing is copied: columns of labels are read at once, images one row group at a time.

    Args:
        shards: Parquet files, in order.
        name: Name of the set, for tables.
        labels: Column of classes named by the user.

    Raises:
        DataError: If a shard is damaged or has other columns than the first, or there is not one image column.
    """

    def __init__(self, shards: Sequence[Path], *, name: str, labels: str | None = None) -> None:
        import datasets

        self.name = name
        self._files = [_opened(path) for path in shards]
        schema = self._files[0].schema_arrow
        for path, file in zip(shards, self._files, strict=True):
            if file.schema_arrow.names != schema.names:
                raise DataError(f"{path} has other columns than {shards[0]}", hint="Keep one data set in a folder.")
        features = datasets.Features.from_arrow_schema(schema)
        images = [column for column, kind in features.items() if _is_image(kind)]
        self._column = only_image_column(images, schema.names, name)
        self._groups = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._starts = [0, *accumulate(sizes)]
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()  # several threads read images
        beside = {column: kind for column, kind in features.items() if column != self._column}
        ids = [f"{index:08d}" for index in range(self._starts[-1])]
        self._describe(ids, beside, self._values, labels)
        self.notes = (*_missing_shards(shards, name), *self.notes)

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""
        number = bisect_right(self._starts, index) - 1
        cell = self._group(number)[index - self._starts[number]].as_py()
        if cell is None or cell["bytes"] is None:
            raise OSError("the image cell holds no image")
        data: bytes = cell["bytes"]
        return data

    def _values(self, column: str) -> list[Any]:
        try:
            return [value for file in self._files for value in file.read(columns=[column])[column].to_pylist()]
        except Exception as error:
            raise DataError(f"cannot read {column} of {self.name}: {_reason(error)}", hint=_AGAIN) from error

    def _group(self, number: int) -> Any:
        """Return the image column of a row group."""
        with self._lock:
            if number not in self._held:
                file, group = self._groups[number]
                try:
                    column = file.read_row_group(group, columns=[self._column])[self._column]
                except Exception as error:  # pyarrow raises types of its own, and OSError
                    raise OSError(_reason(error)) from error
                self._held[number] = column
                if len(self._held) > HELD:
                    self._held.popitem(last=False)
            return self._held[number]


_AGAIN = "Download the shard again."


def parquet_splits(folder: Path) -> dict[str, list[Path]]:
    """Group shards by split: train-00000-of-00294.parquet or train.parquet, also in data/, or train/*.parquet.

    Returns:
        Files in order, by split; empty without parquet files, and one split "data" if no name has a split.

    Raises:
        DataError: If only some names have a split, or a split has shards of several numberings.
    """
    flat = files_in(folder, ".parquet") or files_in(folder / "data", ".parquet")
    split_of = _splits_of(flat, folder)
    if not flat:
        split_of = in_split_folders(folder, ".parquet")
    splits = by_split(split_of, folder)
    for split, paths in splits.items():
        totals = {shard["total"] for path in paths if (shard := _SHARD.fullmatch(path.stem))}
        if len(totals) > 1:
            raise DataError(
                f"{split} of {folder} has shards of several numberings: of {', '.join(sorted(totals))}",
                hint="Keep one version of the data set in a folder.",
            )
    return splits


def _splits_of(files: Sequence[Path], folder: Path) -> dict[Path, str | None]:
    """Return the split in the name of each file."""
    shards = {path: shard["split"] for path in files if (shard := _SHARD.fullmatch(path.stem))}
    known = splits_among([path.stem for path in files if path not in shards], folder)
    return {path: shards.get(path, path.stem if path.stem in known else None) for path in files}


def _missing_shards(shards: Sequence[Path], name: str) -> tuple[str, ...]:
    shard = _SHARD.fullmatch(shards[0].stem)
    if shard is None or len(shards) == int(shard["total"]):
        return ()
    return (f"{name}: {len(shards)} of {int(shard['total'])} shards are here",)


def _opened(path: Path) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, memory_map=True)
    except Exception as error:  # pyarrow raises types of its own, and OSError
        raise DataError(f"cannot read {path}: {_reason(error)}", hint=_AGAIN) from error


def _is_image(kind: Any) -> bool:
    """Return whether a column has the `datasets` image type, or its structure without the library's metadata."""
    import datasets

    return isinstance(kind, datasets.Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"})


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
