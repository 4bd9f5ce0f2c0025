"""Look-up of images by names from lists: paths of any machine, with or without suffix, in any Unicode form."""

from __future__ import annotations

import os

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.class_column import same_name
from visprobe.data.sources.formats import LOOKS

SEVERAL = -1  # a name that fits more than one image


class ImageNames:
    """Index of a set's images by every trailing part of their paths, with and without suffix.

    Args:
        images: Image set.
    """

    def __init__(self, images: ImageSet) -> None:
        self._whole: dict[str, int] = {}
        self._stems: dict[str, int] = {}
        for index, item in enumerate(images.items):
            for end in _ends(same_name(item.id)):
                _add(self._whole, end, index)
                _add(self._stems, _stem(end), index)
        self._whole |= {same_name(item.id): index for index, item in enumerate(images.items)}

    def find(self, name: object) -> int | None:
        """Return the index of the image that `name` fits best, `SEVERAL`, or None."""
        found = self.exactly(name)
        if found is not None or not isinstance(name, (str, int)):
            return found
        return next((self._stems[stem] for end in _ends(_tidy(name)) if (stem := _stem(end)) in self._stems), None)

    def exactly(self, name: object) -> int | None:
        """Return what `find` does, but only for names with the image's suffix."""
        ends = _ends(_tidy(name)) if isinstance(name, str) else []
        return next((self._whole[end] for end in ends if end in self._whole), None)


def is_file_name(name: object) -> bool:
    """Return whether a cell ends in the suffix of an image."""
    return isinstance(name, str) and os.path.splitext(name.lower())[1] in LOOKS


def _tidy(name: str | int) -> str:
    return same_name(str(name)).replace("\\", "/")


def _ends(path: str) -> list[str]:
    """Return the path, the path without its first folder, and so on to the file name."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _stem(path: str) -> str:
    return os.path.splitext(path)[0] if is_file_name(path) else path


def _add(known: dict[str, int], name: str, index: int) -> None:
    known[name] = index if known.setdefault(name, index) == index else SEVERAL
