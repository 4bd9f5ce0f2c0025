"""Images named one by one on the command line: files, folders, or one data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visprobe.data.image_set import Item
from visprobe.data.open import ImageData, open_images
from visprobe.data.sources.folder import image_paths, read_image
from visprobe.data.sources.formats import LOOKS, SUFFIXES
from visprobe.data.subset import take
from visprobe.errors import DataError, UsageError


class ImageFiles:
    """Unlabelled image files anywhere, in the order in which they were named.

    Args:
        paths: Image files; their paths are the ids.
    """

    classes = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self.name = paths[0].name if len(paths) == 1 else f"{len(paths)} images"
        self.items: Sequence[Item] = [Item(path.as_posix()) for path in paths]
        self._paths = tuple(paths)

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""
        return read_image(self._paths[index])


def open_named(
    named: Sequence[str],
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    subset_per_class: int | None = None,
) -> ImageData:
    """Open the images named on the command line.

    Args:
        named: Image files and folders of images in any mixture; or one argument that `open_images` accepts.
        split: Name of the split to measure, for `open_images`; image files have none.
        limit: Most images, drawn evenly over the classes; training images are not counted.
        seed: Seed of the draws.
        subset_per_class: Most training images of each class.

    Raises:
        DataError: If a name is not an image, or nothing can be read there.
        UsageError: If the split does not exist, or `subset_per_class` is given without a training split.
    """
    if len(named) == 1 and not Path(named[0]).is_file():
        return open_images(
            named[0], split=split, limit=limit, seed=seed, subset_per_class=subset_per_class, to_look_into=True
        )
    if subset_per_class is not None:
        raise UsageError("--subset-per-class: image files have no training split beside them", hint="Leave it out.")
    files = ImageFiles(list(dict.fromkeys(file for name in named for file in _files(Path(name)))))
    return ImageData(files.name, take(files, limit, seed), None)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        if found := [path / inside for inside in sorted(image_paths(path))]:
            return found
        raise DataError(f"{path} holds no image", hint=f"visprobe reads {', '.join(sorted(SUFFIXES))}, at any depth.")
    if not path.is_file():
        raise DataError(f"there is no {path}", hint="Name image files, folders of images, or one data set.")
    if path.suffix.lower() not in LOOKS:
        raise DataError(f"{path} is not an image", hint=f"visprobe reads {', '.join(sorted(SUFFIXES))}.")
    return [path]
