"""Notes on files and folders beside the images that are not read, so that nothing is left out in silence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from visprobe.data.image_set import BadImage, decode
from visprobe.data.sources.folder import class_of, folders_in, image_paths, is_system, loose_in, read_image
from visprobe.data.sources.formats import SUFFIXES
from visprobe.errors import DataError

_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
_SHOWN = 5  # folders named in one note
_TRIED = 50  # files per suffix that are tested for being images


def beside(folder: Path, kept: Collection[Path]) -> list[str]:
    """Return a note on loose images and folders in `folder` that are not read.

    Args:
        folder: Folder to look into.
        kept: Folders in it that are read, under any name.
    """
    real = {path.resolve() for path in kept}
    said = loose_images(folder)
    others = [path for path in folders_in(folder) if path.resolve() not in real]
    said += [described(path) for path in others[:_SHOWN]]
    if len(others) > _SHOWN:
        said.append(f"{len(others) - _SHOWN} more folders")
    return [f"{folder}: not read: {', '.join(said)}"] if said else []


def loose_images(folder: Path) -> list[str]:
    """Return the number of images directly in `folder`, and the first, in words; empty without any."""
    loose = sorted(loose_in(folder))
    return [f"{_counted(len(loose), 'image')} in no folder (the first {loose[0]})"] if loose else []


def described(folder: Path) -> str:
    """Return the name of a folder that is left out, and what it holds."""
    count = sum(1 for _ in image_paths(folder))
    if count:
        return f"{folder.name} ({_counted(count, 'image')})"
    boxes = ", as boxes are stored" if folder.name.lower() == "labels" else ""
    return f"{folder.name} ({_kinds(folder)}{boxes})"


def without_images(folder: Path, known: Collection[str] = ()) -> list[Path]:
    """Find class folders without images, which are left out.

    Args:
        folder: Folder with one folder per class.
        known: Classes of other splits.

    Raises:
        DataError: If such a folder is a class of other splits, or holds images that cannot be read here.
    """
    found = []
    for inside in folders_in(folder):
        paths = [inside / path for path in image_paths(inside)]
        if any(path.suffix.lower() in SUFFIXES for path in paths) or any(not _why_bad(path) for path in paths):
            continue
        reason, step = (_why_bad(paths[0]), "Convert its images") if paths else _images_in(inside)
        if not reason and class_of(inside.name) in known:
            reason, step = "other splits have images of this class", "Add its images"
        if reason:
            raise DataError(
                f"the class {inside.name} of {folder} has no image that can be read: {_kinds(inside)}; {reason}",
                hint=f"{step}, or move the folder away.",
            )
        found.append(inside)
    return found


def _images_in(folder: Path) -> tuple[str, str]:
    """Find images in a folder without image suffixes; return the reason they are not read, and advice."""
    tried: Counter[str] = Counter()
    for path in _files(folder):
        suffix = path.suffix.lower()
        tried[suffix] += 1
        if suffix in _ARCHIVES:
            return f"{path.name} is an archive", "Unpack it there"
        if tried[suffix] <= _TRIED and not _why_bad(path):
            return f"{path.name} is an image without the suffix of one", "Give its images their suffix, as .jpg"
    return "", ""


def _why_bad(path: Path) -> str:
    try:
        decode(read_image(path))
    except (BadImage, OSError) as error:
        return str(error)
    return ""


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_system(name))
        yield from (Path(root, name) for name in sorted(files) if not is_system(name))


def _kinds(folder: Path) -> str:
    kinds = Counter(path.suffix or "no suffix" for path in _files(folder))
    return ", ".join(f"{_counted(count, 'file')} with {kind}" for kind, count in kinds.most_common(3)) or "empty"


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
