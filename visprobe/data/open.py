"""From what a user writes after --data to image sets."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visprobe.data.folder import SUFFIXES, ImageFolder, classes_of, image_paths
from visprobe.data.hf import MARKERS, HuggingFaceImages, load_splits
from visprobe.data.image_set import ImageSet, Item
from visprobe.errors import DataError, UsageError

TRAIN = ("train", "training")
VAL = ("val", "validation", "valid", "test")
DIGITS_SIZE = 1000


@dataclass(frozen=True)
class ImageData:
    """The image sets behind one --data: what is measured, and where prototypes come from.

    Attributes:
        name: Name for tables.
        query: The images that are measured.
        support: The images that class prototypes are made of; None if there is only one split.
    """

    name: str
    query: ImageSet
    support: ImageSet | None


class Subset:
    """Some items of an image set, in the order of the set."""

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self._images = images
        self._indices = list(indices)
        self.name = images.name
        self.classes = images.classes
        self.items: Sequence[Item] = [images.items[index] for index in self._indices]

    def read(self, index: int) -> bytes:
        """The encoded image file of `items[index]`; raises OSError if it cannot be read."""
        return self._images.read(self._indices[index])


def open_images(spec: str, *, split: str | None = None, limit: int | None = None, seed: int = 0) -> ImageData:
    """Open what a user named after --data.

    Args:
        spec: "digits" (the built-in scenes), a folder of images, a folder with train/ and val/ inside, a
            folder written by `datasets.save_to_disk`, or a Hugging Face hub id.
        split: Name of the split to measure; by default val, validation, valid or test, whichever exists.
        limit: At most so many images of each split, drawn evenly over the classes.
        seed: Seed of that draw, and of the built-in scenes.

    Raises:
        DataError: If nothing can be read there.
        UsageError: If the split does not exist.
    """
    sets = _open_digits(limit, seed) if spec == "digits" else _open_splits(spec)
    query_name = _query_name(sets, split, spec)
    support_name = next((name for name in TRAIN if name in sets and name != query_name), None)
    query, support = sets[query_name], sets[support_name] if support_name else None
    return ImageData(
        name=_name(spec),
        query=take(query, limit, seed),
        support=take(support, limit, seed) if support is not None else None,
    )


def take(images: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """At most `limit` images, as evenly over the classes as possible, the same ones for the same seed."""
    if limit is None or limit >= len(images.items):
        return images
    if limit < 1:
        raise UsageError(f"--limit {limit} leaves no image", hint="Give a whole number from 1 up.")
    groups: dict[int | None, list[int]] = defaultdict(list)
    for index, item in enumerate(images.items):
        groups[item.label].append(index)
    generator = random.Random(seed)
    for members in groups.values():
        generator.shuffle(members)
    rounds = [(rank, order, index) for order, m in enumerate(groups.values()) for rank, index in enumerate(m)]
    return Subset(images, sorted(index for _, _, index in sorted(rounds)[:limit]))


def _query_name(sets: dict[str, ImageSet], split: str | None, spec: str) -> str:
    if split is not None:
        if split not in sets:
            raise UsageError(f"{spec} has no split {split!r}", hint=f"It has: {', '.join(sets)}.")
        return split
    return next((name for name in VAL if name in sets), next(iter(sets)))


def _open_digits(limit: int | None, seed: int) -> dict[str, ImageSet]:
    from visprobe.data.digits import DigitScenes

    size = limit or DIGITS_SIZE
    return {"train": DigitScenes("train", size=size, seed=seed), "val": DigitScenes("val", size=size, seed=seed)}


def _open_splits(spec: str) -> dict[str, ImageSet]:
    folder, name = Path(spec), _name(spec)
    if not folder.exists() and (spec.count("/") > 1 or spec.startswith((".", "/", "~"))):
        raise DataError(f"{spec} does not exist", hint="Check the path after --data; 'digits' is built in.")
    if not folder.is_dir() or any((folder / marker).is_file() for marker in MARKERS):
        return {split: HuggingFaceImages(rows, name=f"{name}/{split}") for split, rows in load_splits(spec).items()}
    splits = [name for name in TRAIN + VAL if (folder / name).is_dir()]
    if not splits:
        return {name: ImageFolder(folder, name=name)}
    _refuse_classes(folder, splits)
    classes = _shared_classes(folder, splits)
    return {split: ImageFolder(folder / split, name=f"{name}/{split}", classes=classes) for split in splits}


def _name(spec: str) -> str:
    return Path(os.path.abspath(spec)).name  # also of "." and ".."


def _refuse_classes(folder: Path, splits: Sequence[str]) -> None:
    """A class, too, may be called "train": images directly in it, and in other folders beside it, are ambiguous."""
    flat = [name for name in splits if _holds_images(folder / name)]
    others = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and p.name not in splits and _holds_images(p)]
    if flat and others:
        raise DataError(
            f"{folder} holds images in {flat[0]} and in {', '.join(others[:3])}: {flat[0]} may be a split or a class",
            hint=f"If it is a class, move all classes into one folder named val; if a split, move {others[0]} away.",
        )


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in folder.iterdir())


def _shared_classes(folder: Path, splits: Sequence[str]) -> tuple[str, ...] | None:
    """One numbering for all splits: the union of their class folders, or None if one split has none."""
    found = [classes_of(sorted(image_paths(folder / name))) for name in splits]
    if any(classes is None for classes in found):
        return None
    return tuple(sorted({name for classes in found for name in classes or ()}))
