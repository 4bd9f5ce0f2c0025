"""Image sets from folders: a plain folder of images, or one folder per class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from visprobe.data.image_set import Item
from visprobe.data.labels.columns import items_of
from visprobe.data.labels.metadata import NAMES, read_metadata
from visprobe.data.sources.formats import LOOKS, SUFFIXES, UNREADABLE
from visprobe.errors import DataError
from visprobe.io.regular import IMAGE, read_regular

# Folders that file systems, NAS boxes and archivers add; names that start with a dot count too.
_SYSTEM = {
    "@eadir", "__macosx", "$recycle.bin", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp",
    "system volume information", "lost+found", "__pycache__",
}  # fmt: skip


class ImageFolder:
    """Images below a folder, in the order of their relative paths.

    `targets` and `captions` exist only if a metadata file gives them (`visprobe.data.labels.metadata`).

    Args:
        folder: Folder of images. Its sub-folders are the classes if `folder_classes` says so; otherwise the classes
            come from the metadata file, if it has some.
        name: Name of the set, for tables.
        classes: Class names to use instead of the sub-folders found, so that two splits share one numbering; an
            empty tuple if the sub-folders are not classes.
        titles: Readable names of those classes, if known.
        labels: Column of classes in the metadata file, named by the user.

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
        paths: Sequence[str] = sorted(image_paths(folder))
        if not paths:
            raise DataError(
                f"{folder} holds no image", hint=f"visprobe reads {', '.join(sorted(SUFFIXES))}, at any depth."
            )
        self.name = name
        self._folder = folder
        self.classes = (classes if classes is not None else folder_classes(folder, paths)) or None
        notes, paths = _loose(paths, name, bool(self.classes))
        self.class_titles = titles
        numbers = {class_name: number for number, class_name in enumerate(self.classes or ())}
        self.items: Sequence[Item] = [Item(path, numbers[class_of(path)] if self.classes else None) for path in paths]
        metadata = read_metadata(folder, paths, labelled=bool(self.classes), labels=labels)
        self.notes = (*(() if _has_metadata(folder) else notes), *metadata.notes)
        self.label_column, self.why_no_classes = metadata.classes.column, metadata.classes.why_none
        if metadata.classes.of is not None:
            self.items, self.classes = items_of(paths, metadata.classes)
        if metadata.targets is not None:
            self.targets = metadata.targets
        if metadata.captions is not None:
            self.captions = metadata.captions

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""
        return read_image(self._folder / self.items[index].id)


def image_paths(folder: Path) -> Iterator[str]:
    """Yield paths of all images below `folder`, relative, with forward slashes, without hidden and system files."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", hint="Check the path after --data.")
    # Real paths of all folders above each folder, so that a link to one of them is not followed for ever.
    lineage = {os.fspath(folder): {os.path.realpath(folder)}}
    for root, folders, files in os.walk(folder, followlinks=True):
        above = lineage.pop(root)
        real = {name: os.path.realpath(os.path.join(root, name)) for name in folders if not is_system(name)}
        folders[:] = [name for name in real if real[name] not in above]  # in place: os.walk descends into what is left
        lineage.update({os.path.join(root, name): above | {real[name]} for name in folders})
        for file in files:
            if is_image(file):
                yield os.path.relpath(os.path.join(root, file), folder).replace(os.sep, "/")


def folder_classes(
    folder: Path, paths: Sequence[str] | None = None, *, keep_loose: bool = False
) -> tuple[str, ...] | None:
    """Return the first-level folders that hold images, sorted; None if they are not classes.

    They are classes if all images lie in them, or if there are several and most images do. The few loose images are
    then left out, unless a metadata file may describe them.

    Args:
        folder: Folder of images.
        paths: Paths of the images in it, if known.
        keep_loose: Whether loose images are wanted, so that folders beside them are not classes.
    """
    paths = sorted(image_paths(folder)) if paths is None else paths
    inside = [path for path in paths if "/" in path]
    names = {class_of(path) for path in inside}
    loose = len(paths) - len(inside)
    few = not keep_loose and len(names) > 1 and loose < len(inside) and not _has_metadata(folder)
    if loose and not few:
        return None
    return tuple(sorted(names)) or None


def is_image(name: str) -> bool:
    """Return whether a file has an image suffix and is not a system file."""
    return not is_system(name) and os.path.splitext(name)[1].lower() in LOOKS


def is_system(name: str) -> bool:
    """Return whether a file or folder is hidden or the system's own."""
    return name.startswith(".") or name.lower() in _SYSTEM


def folders_in(folder: Path) -> list[Path]:
    """Return the folders directly in `folder`, sorted, without the system's own."""
    with os.scandir(folder) as entries:  # knows folders without a system call for each of a million files
        return [folder / name for name in sorted(e.name for e in entries if not is_system(e.name) and e.is_dir())]


def loose_in(folder: Path) -> Iterator[str]:
    """Yield names of the images directly in `folder`, in no order."""
    with os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if is_image(entry.name) and entry.is_file())


def read_image(path: Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        OSError: If it cannot be read, or holds raw sensor data, from which Pillow would read the thumbnail.
    """
    data = read_regular(path, IMAGE)
    advice = UNREADABLE.get(path.suffix.lower(), "")
    if data.startswith((b"II*\0", b"MM\0*")) and advice:
        raise OSError(f"{path.suffix} is not read: {advice}")
    return data


def class_of(path: str) -> str:
    """Return the first part of a path in NFC form: macOS and Linux store the same name differently."""
    return unicodedata.normalize("NFC", path.split("/", 1)[0])


def _has_metadata(folder: Path) -> bool:
    return any((folder / name).is_file() for name in NAMES)


def _loose(paths: Sequence[str], name: str, labelled: bool) -> tuple[tuple[str, ...], Sequence[str]]:
    """Return a note on loose images beside folders of images, and the paths that are kept."""
    loose = [path for path in paths if "/" not in path]
    if not loose or len(loose) == len(paths):
        return (), paths
    lie = f"{name}: {len(loose)} of {len(paths)} images lie in no folder (the first {loose[0]})"
    if labelled:
        return (f"{lie}: they are left out",), [path for path in paths if "/" in path]
    return (f"{lie}, so the folders are not read as classes",), paths
