"""Image sets from Hugging Face datasets, saved to disk or on the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visprobe.data.image_set import Item
from visprobe.data.labels.columns import captions_of, classes_of_rows, items_of, targets_of
from visprobe.errors import DataError
from visprobe.io.regular import IMAGE, read_regular

MARKERS = ("dataset_dict.json", "dataset_info.json", "state.json")


class DescribedRows:
    """Base class of images described by table columns: classes, and `targets` and `captions` only if there are any.

    Attributes:
        name: Name of the set.
        items: Images with their classes.
        classes: Class names, or None.
        class_titles: Readable names of the classes, if known.
        label_column: Column of the classes.
        why_no_classes: Reason why there are none, and advice.
        notes: Remarks for the reader.
    """

    name: str
    items: Sequence[Item]
    classes: tuple[str, ...] | None
    class_titles: tuple[str, ...] | None = None
    label_column: str | None
    why_no_classes: str
    notes: tuple[str, ...]

    def _describe(
        self, ids: Sequence[str], features: Mapping[str, Any], column_of: Callable[[str], Any], chosen: str | None
    ) -> None:
        """Read classes, targets and captions from columns; `chosen` is the class column named by the user."""
        classes = classes_of_rows(ids, features, column_of, self.name, chosen)
        self.items, self.classes = items_of(ids, classes)
        self.label_column, self.why_no_classes, self.notes = classes.column, classes.why_none, classes.notes
        targets, left = targets_of(features, column_of, self.name, chosen)
        captions = captions_of(features, column_of)
        if targets is not None:
            self.targets = targets
        if captions is not None:
            self.captions = captions
        if left:
            said = f"{self.name}: targets are the first column of several classes; {', '.join(left)} left out"
            self.notes = (*self.notes, said)


class HuggingFaceImages(DescribedRows):
    """Split of a `datasets.Dataset` with an image column.

    `targets` and `captions` exist only if there are columns of them (`visprobe.data.labels.columns`).

    Args:
        dataset: Dataset of the split.
        name: Name of the set, for tables; also the prefix of the item ids.
        labels: Column of classes named by the user.

    Raises:
        DataError: If there is no image column, or more than one.
    """

    def __init__(self, dataset: Any, *, name: str, labels: str | None = None) -> None:
        import datasets

        columns = [column for column, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
        self.name = name
        self._column = only_image_column(columns, list(dataset.features), name)
        self._rows = dataset.cast_column(self._column, datasets.Image(decode=False))
        beside = {column: kind for column, kind in dataset.features.items() if column != self._column}
        ids = [f"{index:08d}" for index in range(len(dataset))]
        self._describe(ids, beside, dataset.__getitem__, labels)

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""
        cell = self._rows[index][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise OSError("the image cell is empty")
        data: bytes = cell["bytes"] if cell["bytes"] is not None else read_regular(Path(cell["path"]), IMAGE)
        return data


def only_image_column(columns: Sequence[str], among: Sequence[str], name: str) -> str:
    """Return the only image column.

    Raises:
        DataError: If there is none, or more than one.
    """
    if len(columns) != 1:
        raise DataError(
            f"{name} has {len(columns)} image columns: {columns} among {among}",
            hint="visprobe needs exactly one column of the datasets.Image type.",
        )
    return columns[0]


def load_splits(spec: str) -> dict[str, Any]:
    """Load the splits of a saved dataset folder or of a hub id, by name.

    Raises:
        DataError: If the dataset cannot be read; the text is the library's reason.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(spec) if Path(spec).is_dir() else datasets.load_dataset(spec)
    except Exception as error:  # `datasets` raises a dozen unrelated types
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        place = "" if Path(spec).is_dir() else " (no such folder here, so asked of the hub)"
        raise DataError(
            f"cannot read the dataset {spec}{place}: {reason}",
            hint="Check the path, or give a folder of images or of datasets.save_to_disk, a hub id, or 'digits'.",
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"data": loaded}
