"""Image sets from folders: a plain folder of images, or one folder per class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from visprobe.data.columns import items_of
from visprobe.data.formats import LOOKS, SUFFIXES, UNREADABLE
from visprobe.data.image_set import BadImage, Item, decode
from visprobe.data.metadata import read_metadata
from visprobe.errors import DataError

# What file systems, photo stations and archivers put beside people's files; and all that starts with a dot.
_SYSTEM = {
    "@eadir", "__macosx", "$recycle.bin", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp",
    "system volume information", "lost+found", "__pycache__",
}  # fmt: skip


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
        self.items: Sequence[Item] = [Item(path, numbers[_class_of(path)] if self.classes else None) for path in paths]
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
        return read_image(self._folder / self.items[index].id)


def image_paths(folder: Path) -> Iterator[str]:
    """Paths of all images below `folder`, relative to it, with forward slashes; without hidden and system files."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", hint="Check the path after --data.")
    lineage = {os.fspath(folder): {os.path.realpath(folder)}}
    for root, folders, files in os.walk(folder, followlinks=True):
        above = lineage.pop(root)
        real = {name: os.path.realpath(os.path.join(root, name)) for name in folders if not is_system(name)}
        folders[:] = [name for name in real if real[name] not in above]  # a link back up would be walked again
        lineage.update({os.path.join(root, name): above | {real[name]} for name in folders})
        for file in files:
            if not is_system(file) and os.path.splitext(file)[1].lower() in LOOKS:
                yield os.path.relpath(os.path.join(root, file), folder).replace(os.sep, "/")


def classes_of(paths: Sequence[str]) -> tuple[str, ...] | None:
    """First-level folder names, sorted, or None if some image lies at the top level."""
    if any("/" not in path for path in paths):
        return None
    return tuple(sorted({_class_of(path) for path in paths}))


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden or the system's own, and no image or class of anybody."""
    return name.startswith(".") or name.lower() in _SYSTEM


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in `folder`, sorted, without the system's own."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_system(path.name)]


def read_image(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        OSError: If it cannot be read, or holds raw sensor data, of which Pillow would show the thumbnail.
    """
    data = path.read_bytes()
    advice = UNREADABLE.get(path.suffix.lower(), "")
    if data.startswith((b"II*\0", b"MM\0*")) and advice:
        raise OSError(f"{path.suffix} is not read: {advice}")
    return data


def refuse_empty_classes(folder: Path) -> None:
    """Refuse folders among those of the classes in which no file is an image that can be read here.

    Args:
        folder: Holds one folder per class.

    Raises:
        DataError: Naming the class, and what lies in it.
    """
    for inside in folders_in(folder):
        paths = [inside / path for path in image_paths(inside)]
        if any(path.suffix.lower() in SUFFIXES for path in paths):
            continue
        if any(not _why_bad(path) for path in paths):
            continue
        reason = _why_bad(paths[0]) if paths else "no file there has the suffix of an image"
        raise DataError(
            f"the class {inside.name} of {folder} has no image that can be read: {_files_in(inside)}; {reason}",
            hint="Convert or add its images, or move the folder away.",
        )


def _why_bad(path: Path) -> str:
    try:
        decode(read_image(path))
    except (BadImage, OSError) as error:
        return str(error)
    return ""


def _files_in(folder: Path) -> str:
    kinds = Counter(path.suffix or "no suffix" for path in folder.rglob("*") if path.is_file())
    return ", ".join(f"{count} files with {kind}" for kind, count in kinds.most_common(3)) or "it is empty"


def _class_of(path: str) -> str:
    """The first folder of a path, in Unicode's composed form: macOS and Linux store the same name differently."""
    return unicodedata.normalize("NFC", path.split("/", 1)[0])
