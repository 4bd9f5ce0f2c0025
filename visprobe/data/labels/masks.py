"""Images with a class for every pixel: images and masks side by side, Pascal VOC, COCO-stuff, `datasets` columns."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from visprobe.data.image_set import MAX_PIXELS, BadImage, Item
from visprobe.data.layout.splits import files_in, role_of
from visprobe.data.sources.folder import folders_in, image_paths
from visprobe.data.sources.hf import HuggingFaceImages
from visprobe.errors import DataError
from visprobe.io.regular import IMAGE, read_regular

PAIRS = (("images", "masks"), ("images", "annotations"), ("images", "labels"), ("img", "ann"), ("image", "mask"))
COLUMNS = ("mask", "annotation", "label", "segmentation", "segmentation_mask", "labels", "annotations")
IGNORED = 255
_ORIENTATION = 0x0112  # EXIF tag; values from 5 on swap width and height


class MaskedImages:
    """Image files with their mask files.

    Args:
        name: Name of the set, for tables.
        folder: Folder that the ids are relative to.
        pairs: Image and mask file of each item; None for a missing mask.
        names: Returns the names of the pixel classes; called when they are first needed.
        ignored: Mask value of pixels that count for no class.
    """

    classes = None

    def __init__(
        self,
        name: str,
        folder: Path,
        pairs: Sequence[tuple[Path, Path | None]],
        names: Callable[[], tuple[str, ...]],
        ignored: int = IGNORED,
    ) -> None:
        self.name, self.ignored = name, ignored
        self.pairs, self._names = tuple(pairs), names
        self.items: Sequence[Item] = [Item(image.relative_to(folder).as_posix()) for image, _ in self.pairs]

    @cached_property
    def mask_classes(self) -> tuple[str, ...]:
        """Names of the pixel classes; their numbers if no list of names lies beside the images."""
        return self._names()

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""
        return read_regular(self.pairs[index][0], IMAGE)

    def mask(self, index: int) -> NDArray[np.int64]:
        """Return the pixel classes of `items[index]`, of shape (height, width) of the decoded image.

        Raises:
            BadImage: If there is no mask, it cannot be decoded, or its size differs from the image's.
            OSError: If it cannot be read.
        """
        image, mask = self.pairs[index]
        if mask is None:
            raise BadImage("there is no mask of this name")
        return of_size(decode_mask(read_regular(mask, IMAGE)), read_regular(image, IMAGE))


class MaskedRows(HuggingFaceImages):
    """Split of a `datasets.Dataset` with a column of images and one of masks.

    Args:
        dataset: Dataset of the split.
        column: Name of the column of masks.
        name: Name of the set, for tables.
        names: Returns the names of the pixel classes; called when they are first needed.
    """

    ignored = IGNORED

    def __init__(self, dataset: Any, column: str, *, name: str, names: Callable[[], tuple[str, ...]]) -> None:
        import datasets

        super().__init__(dataset.remove_columns(column), name=name)
        self._masks = dataset.select_columns(column).cast_column(column, datasets.Image(decode=False))
        self._mask_column, self._names = column, names

    @cached_property
    def mask_classes(self) -> tuple[str, ...]:
        """Numbers of the pixel classes, as names."""
        return self._names()

    def mask(self, index: int) -> NDArray[np.int64]:
        """Return the pixel classes of `items[index]`; see `MaskedImages.mask`."""
        return of_size(self.stored_mask(index), self.read(index))

    def stored_mask(self, index: int) -> NDArray[np.int64]:
        """Return the mask without a check of its size."""
        cell = self._masks[index][self._mask_column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise BadImage("the cell of the mask is empty")
        return decode_mask(cell["bytes"] if cell["bytes"] is not None else read_regular(Path(cell["path"]), IMAGE))


def open_masks(folder: Path, name: str) -> dict[str, MaskedImages] | None:
    """Open the splits of a folder of images with masks; None if `folder` has no such layout.

    Args:
        folder: Folder with `images/` and `masks/` (or `annotations/`, `labels/`; or `img/` and `ann/`), splits inside
            or around them and masks named like their images; Pascal VOC; or COCO-stuff.
        name: Name for tables.

    Raises:
        DataError: If no image has a mask.
    """
    found = _voc(folder) or _coco(folder) or _side_by_side(folder)
    if not found:
        return None
    ade = (folder / "objectInfo150.txt").is_file() or folder.name.startswith("ADEChallenge")
    known = VOC_NAMES if (folder / "SegmentationClass").is_dir() else COCO_STUFF_NAMES if _coco(folder) else None
    named = stored_names(folder) or known
    ignored = 0 if ade else IGNORED
    masks = [mask for pairs in found.values() for _, mask in pairs if mask is not None]
    if not masks:
        raise DataError(f"{folder}: no image has a mask", hint="A mask is a PNG with the name of its image.")
    names = _once(lambda: named or _numbers(map(_stored_mask, masks), ignored))
    return {split: MaskedImages(f"{name}/{split}", folder, pairs, names, ignored) for split, pairs in found.items()}


def open_masked_rows(splits: Mapping[str, Any], name: str) -> dict[str, MaskedRows] | None:
    """Open the splits of a dataset with a column of images and one of masks; None if it has others."""
    import datasets

    found = {}
    for split, rows in splits.items():
        images = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        column = next((column for column in COLUMNS if column in images), None)
        if len(images) != 2 or column is None:
            return None
        found[split] = (rows, column)
    opened: dict[str, MaskedRows] = {}

    def read() -> Iterator[NDArray[np.int64]]:
        return (_readable(rows.stored_mask, i) for rows in opened.values() for i in range(len(rows.items)))

    names = _once(lambda: _numbers(read(), IGNORED))
    for split, (rows, column) in found.items():
        opened[split] = MaskedRows(rows, column, name=f"{name}/{split}", names=names)
    return opened


def decode_mask(data: bytes) -> NDArray[np.int64]:
    """Decode a mask file to class numbers: grey values or palette indices.

    Returns:
        int64 of shape (height, width).

    Raises:
        BadImage: If it cannot be decoded, is larger than 64 Mpx, or has colours instead of numbers.
    """
    try:
        with Image.open(io.BytesIO(data)) as mask:
            if mask.width * mask.height > MAX_PIXELS:
                raise BadImage(f"the mask has more than {MAX_PIXELS // 1_000_000} Mpx")
            if mask.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
                raise BadImage(f"the mask has pixels of mode {mask.mode} and not class numbers")
            return np.asarray(mask).astype(np.int64)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage("the mask is not an image of a known format") from error
    except Exception as error:  # Pillow raises many types on damaged files
        raise BadImage(f"the mask: {type(error).__name__}: {error}".splitlines()[0][:200]) from error


def of_size(mask: NDArray[np.int64], image: bytes) -> NDArray[np.int64]:
    """Return `mask` if it has the size of the upright image in the file content `image`.

    Raises:
        BadImage: If the sizes differ, or the image has no readable header.
    """
    try:
        with Image.open(io.BytesIO(image)) as opened:
            turned = opened.getexif().get(_ORIENTATION, 1) >= 5
            width, height = opened.size[::-1] if turned else opened.size
    except Exception as error:
        raise BadImage(f"the image of the mask: {error}".splitlines()[0][:200]) from error
    if mask.shape != (height, width):
        raise BadImage(f"the mask is {mask.shape[1]}x{mask.shape[0]}, its image {width}x{height}")
    return mask


Pairs = dict[str, list[tuple[Path, Path | None]]]


def _side_by_side(folder: Path) -> Pairs:
    for images, masks in PAIRS:
        places = {s: (folder / images / s, folder / masks / s) for s in _splits_in(folder / images)}
        places |= {
            s: (folder / s / images, folder / s / masks) for s in _splits_in(folder) if (folder / s / masks).is_dir()
        }
        there = {split: place for split, place in places.items() if place[0].is_dir()}
        if there and any(_may_hold_masks(mask) for _, mask in there.values()):
            return {split: list(_paired(*place)) for split, place in there.items()}
        if (folder / masks).is_dir() and (folder / images).is_dir() and not there:
            pairs = list(_paired(folder / images, folder / masks))
            if any(mask for _, mask in pairs):  # else the two folders are classes that happen to have these names
                return {folder.name: pairs}
    return {}


def _may_hold_masks(folder: Path) -> bool:
    """Return whether a folder holds masks; labels/ and annotations/ may hold boxes in text files instead."""
    return folder.is_dir() and ("mask" in folder.parent.name + folder.name or any(image_paths(folder)))


def _splits_in(folder: Path) -> list[str]:
    return [path.name for path in folders_in(folder) if role_of(path.name)] if folder.is_dir() else []


def _voc(folder: Path) -> Pairs:
    lists, masks = folder / "ImageSets" / "Segmentation", folder / "SegmentationClass"
    if not (lists.is_dir() and masks.is_dir()):
        return {}
    known = {Path(path).stem: folder / "JPEGImages" / path for path in image_paths(folder / "JPEGImages")}
    found: Pairs = {}
    for listed in (path for path in files_in(lists, ".txt") if role_of(path.stem)):
        stems = [stem for stem in listed.read_text("utf-8").split() if stem in known]
        found[listed.stem] = [(known[stem], _if_there(masks / f"{stem}.png")) for stem in stems]
    return {split: pairs for split, pairs in found.items() if pairs}


def _coco(folder: Path) -> Pairs:
    maps = next((p for p in sorted(folder.glob("stuffthingmaps*")) if p.is_dir()), None)
    found: Pairs = {}
    for split in ("train", "val") if maps else ():
        images = next((p for p in (folder / f"{split}2017", folder / "images" / f"{split}2017") if p.is_dir()), None)
        if images is not None and maps is not None:
            found[split] = list(_paired(images, maps / f"{split}2017"))
    return found


def _paired(images: Path, masks: Path) -> Iterator[tuple[Path, Path | None]]:
    """Pair each image with the mask of the same path without suffix."""
    known = {str(Path(path).with_suffix("")): masks / path for path in image_paths(masks)} if masks.is_dir() else {}
    for path in sorted(image_paths(images)):
        yield images / path, known.get(str(Path(path).with_suffix("")))


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _stored_mask(path: Path) -> NDArray[np.int64]:
    return _readable(lambda _: decode_mask(read_regular(path, IMAGE)), 0)


def _readable(read: Callable[[int], NDArray[np.int64]], index: int) -> NDArray[np.int64]:
    """Return a mask, empty if damaged; damage is reported when the mask is used."""
    try:
        return read(index)
    except (BadImage, OSError):
        return np.zeros(0, np.int64)


def _numbers(masks: Iterator[NDArray[np.int64]], ignored: int) -> tuple[str, ...]:
    largest = max((int(mask[mask != ignored].max(initial=-1)) for mask in masks), default=-1)
    return tuple(str(number) for number in range(largest + 1))


def _once(names: Callable[[], tuple[str, ...]]) -> Callable[[], tuple[str, ...]]:
    """Cache `names` for all splits: without a list of names, every mask has to be read."""
    known: list[tuple[str, ...]] = []

    def ask() -> tuple[str, ...]:
        if not known:
            known.append(names())
        return known[0]

    return ask


VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
COCO_STUFF_NAMES = tuple(str(number) for number in range(182))  # numbers in the pixel maps: 0 is a person
_NUMBERED = re.compile(r"\s*(\d+)\s*[:,\t ]\s*(.+)")


def stored_names(folder: Path) -> tuple[str, ...] | None:
    """Read names of pixel classes from `classes.txt` (a name per line, in order, or "number: name") or ADE20K's list.

    Args:
        folder: Folder that may hold the list.

    Returns:
        Names in the order of class numbers; None if there is no list.

    Raises:
        DataError: If there is a list that cannot be read.
    """
    for name, read in (("objectInfo150.txt", _ade), ("classes.txt", _lines)):
        path = folder / name
        if path.is_file():
            try:
                return read(path.read_text("utf-8"))
            except (ValueError, IndexError) as error:
                raise DataError(f"{path} is no list of class names: {error}", hint="Write one name per line.") from None
    return None


def _ade(text: str) -> tuple[str, ...]:
    """Parse tab-separated columns: number from 1 up, three others, names; class 0 has no label."""
    fields = [line.split("\t") for line in text.splitlines() if line.strip()]
    return _by_number({0: "unlabelled", **{int(row[0]): row[4].split(",")[0].strip() for row in fields[1:]}})


def _lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if lines and len(numbered) == len(lines):
        return _by_number({int(match[1]): match[2].strip() for match in numbered})
    return tuple(lines)


def _by_number(names: dict[int, str]) -> tuple[str, ...]:
    return tuple(names.get(number, str(number)) for number in range(max(names) + 1))
