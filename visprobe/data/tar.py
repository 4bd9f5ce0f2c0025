"""Image sets from WebDataset shards: tar archives in which files of one sample share a name, read where they lie.

Source: the WebDataset format, https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visprobe.data.columns import sorted_classes
from visprobe.data.folder import SUFFIXES
from visprobe.data.image_set import Item
from visprobe.data.splits import SPLITS, by_split
from visprobe.errors import DataError

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_BLOCK = 512
_LARGEST_TEXT = 1 << 20  # bytes of a label or caption: more is no such thing


@dataclass
class Sample:
    """One sample of a shard: where its image lies, its class and its captions."""

    id: str
    path: Path
    offset: int = 0
    size: int = 0
    label: str | None = None
    captions: tuple[str, ...] = field(default=())


class TarImages:
    """One split of samples; labels from .cls or the "label" or "cls" of .json, captions from .txt.

    It has `captions` only where a sample has one.

    Args:
        samples: As `read_samples` gives them.
        name: Name of the set, for tables.
        classes: Class names, in the order of the labels.

    Raises:
        DataError: If only some of the samples have a label.
    """

    def __init__(self, samples: Sequence[Sample], *, name: str, classes: tuple[str, ...]) -> None:
        self.name = name
        self._samples = samples
        unlabelled = [sample for sample in samples if sample.label is None]
        if unlabelled and len(unlabelled) < len(samples):
            raise DataError(
                f"{len(unlabelled)} of {len(samples)} images of {name} have no label, the first {unlabelled[0].id}",
                hint="Give every sample a .cls file or a label in its .json, or none.",
            )
        self.classes = None if unlabelled else classes
        numbers = {label: number for number, label in enumerate(classes)}
        self.items = tuple(Item(s.id, numbers[s.label] if s.label is not None else None) for s in samples)
        if any(sample.captions for sample in samples):
            self.captions = tuple(sample.captions for sample in samples)

    def read(self, index: int) -> bytes:
        """The encoded image file of `items[index]`; raises OSError if it cannot be read."""
        sample = self._samples[index]
        with sample.path.open("rb") as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
        if len(data) < sample.size:
            raise OSError(f"{sample.path} ends before the image does")
        return data


def tar_splits(folder: Path) -> dict[str, list[Path]]:
    """Shards by split: a name of which one word is a split (imagenet1k-train-0000.tar), or train/*.tar and val/*.tar.

    Returns:
        Split name to files in order; empty without tar files, and one split "data" where no name says a split.

    Raises:
        DataError: If only some names say their split.
    """
    flat = sorted(folder.glob("*.tar"))
    if flat:
        return by_split({path: _split_of(path) for path in flat}, folder)
    nested = [path for path in sorted(folder.glob("*/*.tar")) if path.parent.name in SPLITS]
    return by_split({path: path.parent.name for path in nested}, folder)


def open_tars(splits: dict[str, list[Path]], name: str) -> dict[str, TarImages]:
    """Image sets of all splits with one numbering of the classes.

    Raises:
        DataError: If a shard is damaged or holds no image, or a label cannot be read.
    """
    samples = {split: [s for path in paths for s in read_samples(path)] for split, paths in splits.items()}
    labels = {sample.label for split in samples.values() for sample in split if sample.label is not None}
    classes = sorted_classes(labels)
    return {split: TarImages(found, name=f"{name}/{split}", classes=classes) for split, found in samples.items()}


def read_samples(path: Path) -> list[Sample]:
    """The samples of a shard that have an image, in its order; only headers and small files are read.

    Raises:
        DataError: If the archive is damaged, holds no image, or a sample has two images or an unreadable label.
    """
    samples: dict[str, Sample] = {}
    images: set[str] = set()
    with path.open("rb") as file:
        for member in _members(path):
            match = _KEY.fullmatch(member.name)
            if match is None:
                continue
            key, suffix = match[1], "." + match[2].lower()
            sample = samples.setdefault(key, Sample(f"{path.name}/{member.name}", path))
            if suffix in SUFFIXES:
                if key in images:
                    raise DataError(f"{path}: sample {key} has two images", hint="Leave one image in each sample.")
                images.add(key)
                sample.id, sample.offset, sample.size = f"{path.name}/{member.name}", member.offset_data, member.size
            elif suffix in (".cls", ".json", ".txt") and member.size <= _LARGEST_TEXT:
                file.seek(member.offset_data)
                _describe(sample, suffix, file.read(member.size), f"{path}: {member.name}")
    if not images:
        raise DataError(
            f"{path} holds no image",
            hint="visprobe reads WebDataset shards: images, each beside a .cls or .json; unpack archives in archives.",
        )
    return [sample for key, sample in samples.items() if key in images]


def _describe(sample: Sample, suffix: str, data: bytes, where: str) -> None:
    """Add what a small file says of its sample."""
    try:
        text = data.decode().strip()
        if suffix == ".txt":
            sample.captions = (text,) if text else ()
            return
        label = int(text) if suffix == ".cls" else _label_in(json.loads(text))
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {error}", hint="A .cls file holds one whole number.") from error
    if label in (None, -1):  # test splits are often published so
        return
    if sample.label is not None and sample.label != str(label):
        raise DataError(f"{where} says class {label}, another file {sample.label}", hint="Give each sample one class.")
    sample.label = str(label)


def _label_in(found: object) -> int | str | None:
    label = found.get("label", found.get("cls")) if isinstance(found, dict) else None
    return label if isinstance(label, (int, str)) else None


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of an archive, and the certainty that it is whole."""
    hint = "Download the shard again; compressed archives have to be unpacked."
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # the library would keep every header
                if member.isreg() and not member.issparse():
                    yield member
            end = archive.offset
    except tarfile.TarError as error:
        raise DataError(f"{path} is damaged: {error}", hint=hint) from error
    with path.open("rb") as file:
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):  # the library takes a cut or a broken header for the end
            raise DataError(f"{path} is damaged: it has no end mark at byte {end}", hint=hint)


def _split_of(path: Path) -> str | None:
    words = {word for word in re.split(r"[^A-Za-z]+", path.stem.lower()) if word in SPLITS}
    return words.pop() if len(words) == 1 else None
