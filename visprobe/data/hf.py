"""Image sets from Hugging Face datasets, saved to disk or on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visprobe.data.columns import captions_of, labels_of, targets_of
from visprobe.data.image_set import Item
from visprobe.errors import DataError

MARKERS = ("dataset_dict.json", "dataset_info.json", "state.json")


class HuggingFaceImages:
    """One split of a `datasets.Dataset` that has an image column and perhaps labels, targets and captions.

    It has `targets` and `captions` only where there are columns of them (`visprobe.data.columns`).

    Args:
        dataset: The split.
        name: Name of the set, for tables; also the prefix of the item ids.

    Raises:
        DataError: If there is no image column, or more than one.
    """

    def __init__(self, dataset: Any, *, name: str) -> None:
        import datasets

        columns = [column for column, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
        self.name = name
        self._column = only_image_column(columns, list(dataset.features), name)
        self._rows = dataset.cast_column(self._column, datasets.Image(decode=False))
        labels, self.classes = labels_of(dataset.features, dataset.__getitem__, name)
        self.items: Sequence[Item] = [
            Item(f"{index:08d}", labels[index] if labels else None) for index in range(len(dataset))
        ]
        self.notes = annotate(self, dataset.features, dataset.__getitem__)

    def read(self, index: int) -> bytes:
        """The encoded image file of `items[index]`; raises OSError if it cannot be read."""
        cell = self._rows[index][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise OSError("the image cell is empty")
        data: bytes = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        return data


def only_image_column(columns: Sequence[str], among: Sequence[str], name: str) -> str:
    """The one image column.

    Raises:
        DataError: If there is none, or more than one.
    """
    if len(columns) != 1:
        raise DataError(
            f"{name} has {len(columns)} image columns: {columns} among {among}",
            hint="visprobe needs exactly one column of the datasets.Image type.",
        )
    return columns[0]


def annotate(images: Any, features: Any, column_of: Any) -> tuple[str, ...]:
    """Give `images` the targets and captions of the columns, where there are any; returns what to say of them."""
    targets, left = targets_of(features, column_of)
    captions = captions_of(features, column_of)
    if targets is not None:
        images.targets = targets
    if captions is not None:
        images.captions = captions
    if not left:
        return ()
    return (f"{images.name}: targets are the first column of several classes; {', '.join(left)} left out",)


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
        place = "" if Path(spec).is_dir() else " (no such folder here, so asked of the hub)"
        raise DataError(
            f"cannot read the dataset {spec}{place}: {reason}",
            hint="Check the path, or give a folder of images or of datasets.save_to_disk, a hub id, or 'digits'.",
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"data": loaded}
