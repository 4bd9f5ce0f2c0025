"""Where the splits of a folder of images lie, and folders that could be splits and are not known as such."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from visprobe.data.folder import folders_in, image_paths
from visprobe.data.splits import ROLES, role_of
from visprobe.errors import DataError

_WRAPPERS = {"images", "image", "imgs", "img", "data", "dataset"}
_DEPTH = 3  # data/images/train


def split_folders(folder: Path) -> dict[str, Path]:
    """Folders of the splits by name: in `folder`, or where all its images lie in one folder, in that one.

    A split whose images lie one folder deeper, as in seg_train/seg_train and train/images, is that folder.
    """
    for _ in range(_DEPTH):
        below = [path for path in folders_in(folder) if any(image_paths(path))]
        if splits := [path for path in folders_in(folder) if role_of(path.name)]:
            return {path.name: _inner(path) for path in sorted(splits, key=_order)}
        if len(below) != 1:
            return {}
        folder = below[0]
    return {}


def refuse_unknown_splits(folder: Path) -> None:
    """Refuse folders that mostly share their sub-folders, as splits do and classes do not.

    Raises:
        DataError: Naming them.
    """
    below = [path for path in folders_in(folder) if any(image_paths(path))]
    inside = [{path.name for path in folders_in(_inner(path))} for path in below]
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    if len(shared) > 1 and 2 * len(shared) >= len(set.union(*inside)):
        raise DataError(
            f"{folder}: {', '.join(path.name for path in below[:4])} all hold the folders "
            f"{', '.join(sorted(shared)[:3])}: they may be splits or classes",
            hint="If splits, rename them, as train and val; if classes, move them all into one folder named val.",
        )


def refuse_lookalikes(found: Mapping[str, tuple[str, ...] | None], folder: Path) -> None:
    """Refuse classes of two splits whose names differ only in case, blanks, underscores or hyphens.

    Both in one split are two classes, as the letters a and A are.

    Raises:
        DataError: With both spellings in quotation marks.
    """
    for split, names in found.items():
        for other, others in found.items():
            by_look = {_look(name): name for name in set(others or ()) - set(names or ())}
            for name in sorted(set(names or ()) - set(others or ())):
                if (alike := by_look.get(_look(name))) is not None:
                    raise DataError(
                        f"{folder}: the class {name!r} of {split} is {alike!r} in {other}: they differ only in case, "
                        "blanks, underscores or hyphens",
                        hint="Give both folders the same name.",
                    )


def _order(split: Path) -> int:
    return [*ROLES, None].index(role_of(split.name))


def _inner(split: Path) -> Path:
    """The only folder in `split` if that is a split of the same role or called as images are; else `split`."""
    inside = [path for path in folders_in(split) if any(image_paths(path))]
    alone = len(inside) == 1 and all("/" in path for path in image_paths(split))
    if alone and (role_of(inside[0].name) == role_of(split.name) is not None or inside[0].name.lower() in _WRAPPERS):
        return inside[0]
    return split


def _look(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
