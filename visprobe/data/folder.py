"""Image sets from folders: a plain folder of images, or one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from visprobe.data.columns import items_of
from visprobe.data.image_set import Item
from visprobe.data.metadata import read_metadata
from visprobe.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


class ImageFolder:
    """Images below a folder, in the order of their relative paths.

    It has `targets` and `captions` only where a metadata file gives them (`visprobe.data.metadata`).

    Args:
        folder: Where the images lie. If every image is inside a sub-folder, the first level of sub-folders
            gives the classes; otherwise the metadata file, if there is one and it knows them.
        name: Name of the set, for tables.
        classes: Class names to use instead of the sub-folders found, so that two splits share one numbering.
        titles: Readable names of those classes, if known.
        labels: The column of classes in the metadata file, as a user named it.

    Raises:
        DataError: If the folder does not exist or holds no image, or its metadata file cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        classes: tuple[str, ...] | None = None,
        titles: tuple[str, ...] | None = None,
        labels: str | None = None,
    ) -> None:
        paths = sorted(image_paths(folder))
        if not paths:
            raise DataError(
                f"{folder} holds no image", hint=f"visprobe reads {', '.join(sorted(SUFFIXES))}, at any depth."
            )
        self.name = name
        self._folder = folder
        self.classes = classes if classes is not None else classes_of(paths)
        self.class_titles = titles
        numbers = {class_name: number for number, class_name in enumerate(self.classes or ())}
        self.items: Sequence[Item] = [
            Item(path, numbers[path.split("/", 1)[0]] if self.classes else None) for path in paths
        ]
        metadata = read_metadata(folder, paths, labelled=bool(self.classes), labels=labels)
        self.notes = metadata.notes
        self.label_column, self.why_no_classes = metadata.classes.column, metadata.classes.why_none
        if metadata.classes.of is not None:
            self.items, self.classes = items_of(paths, metadata.classes)
        if metadata.targets is not None:
            self.targets = metadata.targets
        if metadata.captions is not None:
            self.captions = metadata.captions

    def read(self, index: int) -> bytes:
        """The encoded image file of `items[index]`; raises OSError if it cannot be read."""
        return (self._folder / self.items[index].id).read_bytes()


def image_paths(folder: Path) -> Iterator[str]:
    """Paths of all images below `folder`, relative to it, with forward slashes; hidden files are left out."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", hint="Check the path after --data.")
    lineage = {os.fspath(folder): {os.path.realpath(folder)}}
    for root, folders, files in os.walk(folder, followlinks=True):
        above = lineage.pop(root)
        real = {name: os.path.realpath(os.path.join(root, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in real if real[name] not in above]  # a link back up would be walked again
        lineage.update({os.path.join(root, name): above | {real[name]} for name in folders})
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES:
                yield os.path.relpath(os.path.join(root, file), folder).replace(os.sep, "/")


def classes_of(paths: Sequence[str]) -> tuple[str, ...] | None:
    """First-level folder names, sorted, or None if some image lies at the top level."""
    if any("/" not in path for path in paths):
        return None
    return tuple(sorted({path.split("/", 1)[0] for path in paths}))
