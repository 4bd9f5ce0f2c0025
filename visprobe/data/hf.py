"""Image sets from Hugging Face datasets, saved to disk or on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visprobe.data.image_set import Item
from visprobe.errors import DataError

MARKERS = ("dataset_dict.json", "dataset_info.json", "state.json")


class HuggingFaceImages:
    """One split of a `datasets.Dataset` that has an image column and perhaps a label column.

    Args:
        dataset: The split.
        name: Name of the set, for tables; also the prefix of the item ids.

    Raises:
        DataError: If there is no image column, or more than one.
    """

    def __init__(self, dataset: Any, *, name: str) -> None:
        import datasets

        columns = [column for column, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
        if len(columns) != 1:
            raise DataError(
                f"{name} has {len(columns)} image columns: {columns} among {list(dataset.features)}",
                hint="visprobe needs exactly one column of the datasets.Image type.",
            )
        self.name = name
        self._column = columns[0]
        self._rows = dataset.cast_column(self._column, datasets.Image(decode=False))
        labels, self.classes = _labels(dataset, name)
        self.items: Sequence[Item] = [
            Item(f"{index:08d}", labels[index] if labels else None) for index in range(len(dataset))
        ]

    def read(self, index: int) -> bytes:
        """The encoded image file of `items[index]`; raises OSError if it cannot be read."""
        cell = self._rows[index][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise OSError("the image cell is empty")
        data: bytes = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        return data


def _labels(dataset: Any, name: str) -> tuple[list[int], tuple[str, ...] | None]:
    import datasets

    named = [column for column, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)]
    column = "label" if "label" in dataset.features else (named[0] if named else None)
    if column is None:
        return [], None
    kind = dataset.features[column]
    values = list(dataset[column])
    missing = sum(value in (None, -1) for value in values)
    if missing == len(values):  # test splits are often published so
        return [], None
    if missing:
        raise DataError(
            f"{missing} of {len(values)} images of {name} have no {column}",
            hint="Remove those rows or the column; without the column the images count as unlabelled.",
        )
    if isinstance(kind, datasets.ClassLabel):
        return values, tuple(kind.names)
    names = sorted({str(value) for value in values})
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers[str(value)] for value in values], tuple(names)


def load_splits(spec: str) -> dict[str, Any]:
    """The splits of a saved dataset folder or of a hub id, by name.

    Raises:
        DataError: If the dataset cannot be read; the text is the library's own reason.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(spec) if Path(spec).is_dir() else datasets.load_dataset(spec)
    except Exception as error:  # the library raises a dozen unrelated types for "cannot be had"
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise DataError(
            f"cannot read the dataset {spec}: {reason}",
            hint="Give a folder of images, a folder written by datasets.save_to_disk, a hub id, or 'digits'.",
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"data": loaded}
