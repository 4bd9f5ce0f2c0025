"""Image sets from WebDataset shards: tar archives in which the files of a sample share a name, read in place.

Source: the WebDataset format, https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from visprobe.data.labels.class_column import (
    LABEL,
    Classes,
    Table,
    find_classes,
    may_be_class,
    refuse_lookalikes,
    same_name,
    sorted_classes,
)
from visprobe.data.labels.columns import items_of, targets_instead
from visprobe.data.layout.splits import SPLITS, by_split, files_in, in_split_folders, role_of
from visprobe.data.sources.folder import is_system
from visprobe.data.sources.formats import LOOKS, UNREADABLE
from visprobe.errors import DataError
from visprobe.io.regular import check_size

_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
_BLOCK = 512
_LARGEST_TEXT = 1 << 20  # bytes of a label or caption; larger files are something else


@dataclass
class Sample:
    """Sample of a shard: position of its image, possible class fields, and captions.

    Attributes:
        id: Name of the shard and of the image in it.
        path: Path of the shard.
        offset: Byte offset of the image in the shard.
        size: Length of the image in bytes.
        fields: Values of its label files by field name; that of a .cls file is "label".
        captions: Captions from a .txt file.
    """

    id: str
    path: Path
    offset: int = 0
    size: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    captions: tuple[str, ...] = ()


class TarImages:
    """Split of samples in shards.

    Classes come from .cls files or fields of .json files (`visprobe.data.labels.class_column`), or, if there are only
    images, from their folders; captions come from .txt files. `captions` and `targets` exist only if a sample has some.

    Args:
        samples: Samples of `read_samples`.
        name: Name of the set, for tables.
        fields: Names of all fields of the samples' files.
        labels: Field of classes named by the user.

    Raises:
        DataError: If only some of the samples have a class.
    """

    class_titles: tuple[str, ...] | None = None

    def __init__(
        self, samples: Sequence[Sample], *, name: str, fields: Sequence[str] = (), labels: str | None = None
    ) -> None:
        self.name = name
        self._samples = samples

        def values(column: str) -> list[Any]:
            return [sample.fields.get(column) for sample in samples]

        ids = [sample.id for sample in samples]
        table = Table(name, ids, fields, values, word="field")
        found = find_classes(table, labels) if fields else _folders(samples, name)
        self.label_column, self.why_no_classes, self.notes = found.column, found.why_none, found.notes
        self.items, self.classes = items_of(ids, found)
        if any(sample.captions for sample in samples):
            self.captions = tuple(sample.captions for sample in samples)
        if self.classes is None and (targets := targets_instead(table, labels)) is not None:
            self.targets = targets

    def number_as(self, classes: tuple[str, ...]) -> None:
        """Renumber the classes in the order of `classes`, which holds all of them."""
        numbers = {name: number for number, name in enumerate(classes)}
        own = self.classes or ()
        self.items = [replace(i, label=None if i.label is None else numbers[own[i.label]]) for i in self.items]
        self.classes = classes

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""
        sample = self._samples[index]
        check_size(sample.size, sample.path)
        with sample.path.open("rb") as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
        if len(data) < sample.size:
            raise OSError(f"{sample.path} ends before the image does")
        return data


def tar_splits(folder: Path) -> dict[str, list[Path]]:
    """Group shards by split: one word of the name is a split (imagenet1k-train-0000.tar), or train/*.tar and val/*.tar.

    Returns:
        Files in order, by split; empty without tar files, and one split "data" if no name has a split.

    Raises:
        DataError: If only some names have a split.
    """
    if flat := files_in(folder, ".tar"):
        return by_split({path: _split_of(path) for path in flat}, folder)
    return by_split(in_split_folders(folder, ".tar"), folder)


def open_tars(splits: dict[str, list[Path]], name: str, labels: str | None = None) -> dict[str, TarImages]:
    """Open the image sets of all splits with one numbering of the classes.

    Args:
        splits: Result of `tar_splits`.
        name: Name of the data set.
        labels: Field of classes named by the user.

    Raises:
        DataError: If a shard is damaged or holds no image, or a label cannot be read.
    """
    sets = {}
    for split, paths in splits.items():
        fields: dict[str, None] = {}
        samples = [sample for path in paths for sample in read_samples(path, fields, labels)]
        sets[split] = TarImages(samples, name=f"{name}/{split}", fields=list(fields), labels=labels)
    refuse_lookalikes({split: images.classes for split, images in sets.items()}, name)
    labelled = [images for images in sets.values() if images.classes]
    classes = sorted_classes({one for images in labelled for one in images.classes or ()})
    for images in labelled:
        images.number_as(classes)
    return sets


def read_samples(path: Path, fields: dict[str, None], labels: str | None = None) -> list[Sample]:
    """Read the samples of a shard that have an image, in order; only headers and small files are read.

    Args:
        path: Path of the shard.
        fields: Receives the names of all fields of small files.
        labels: Field to keep beside those with a usual class name.

    Raises:
        DataError: If the archive is damaged, holds no image, or a sample has two images or an unreadable label.
    """
    samples: dict[str, Sample] = {}
    images: dict[str, str] = {}  # suffix of each sample's image
    elsewhere = ""
    with path.open("rb") as file:
        for member in _members(path):
            match = _KEY.fullmatch(member.name)
            if match is None:
                continue
            key, suffix = match[1], "." + match[2].lower()
            sample = samples.setdefault(key, Sample(f"{path.name}/{member.name}", path))
            if suffix in LOOKS:
                if key in images and suffix in UNREADABLE:  # raw data or a drawing beside the image itself
                    continue
                if images.get(key, "") in UNREADABLE:
                    images.pop(key)
                if key in images:
                    raise DataError(f"{path}: sample {key} has two images", hint="Leave one image in each sample.")
                images[key] = suffix
                sample.id, sample.offset, sample.size = f"{path.name}/{member.name}", member.offset_data, member.size
            elif (suffix in (".json", ".txt") or _is_label(suffix)) and member.size <= _LARGEST_TEXT:
                file.seek(member.offset_data)
                said = _said(suffix, file.read(member.size), f"{path}: {member.name}")
                fields.update(dict.fromkeys(said))
                kept = {name: said[name] for name in said if may_be_class(name) or name == labels}
                _add(sample.fields, kept, f"{path}: {member.name}")
                if said.get("txt"):
                    sample.captions = (said["txt"],)
            elif os.path.splitext(suffix)[1] in LOOKS:
                elsewhere = member.name
    if not images:
        found = (
            f"; {elsewhere} is the file {match[2]} of the sample {match[1]}"
            if (match := _KEY.fullmatch(elsewhere))
            else ""
        )
        raise DataError(
            f"{path} holds no image{found}",
            hint="visprobe reads WebDataset shards: images, each beside a .cls or .json, without other dots in their "
            "names; unpack archives in archives.",
        )
    return [sample for key, sample in samples.items() if key in images]


def _is_label(suffix: str) -> bool:
    """Return whether a file is a label by itself: .cls, and names such as .label or .class.txt."""
    return may_be_class(suffix.removesuffix(".txt"))


def _said(suffix: str, data: bytes, where: str) -> dict[str, Any]:
    """Parse a small file to values by field name."""
    try:
        text = data.decode().strip()
        found = json.loads(text) if suffix == ".json" else text
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {error}", hint="Labels are text in UTF-8, or JSON.") from error
    if not isinstance(found, dict):
        return {suffix[1:] if suffix in (".json", ".txt") else LABEL: found}
    return {LABEL if name == "cls" and LABEL not in found else name: value for name, value in found.items()}


def _add(known: dict[str, Any], said: dict[str, Any], where: str) -> None:
    """Add values to the fields of a sample, except missing ones."""
    for name, value in said.items():
        if value in (None, "", -1, "-1"):  # usual in published test splits
            continue
        if str(known.setdefault(name, value)) != str(value):
            raise DataError(
                f"{where} says class {value}, another file {known[name]}", hint="Give each sample one class."
            )


def _folders(samples: Sequence[Sample], name: str) -> Classes:
    """Return classes from folders in archives of images alone; folders around all images do not count."""
    paths = [sample.id.split("/")[1:] for sample in samples]
    folders = [[part for part in path[:-1] if part != "."] for path in paths]
    while folders and all(len(inside) > 1 for inside in folders) and len({inside[0] for inside in folders}) == 1:
        folders = [inside[1:] for inside in folders]
    if not all(folders) or len({inside[0] for inside in folders}) < 2:
        return Classes()
    classes = tuple(same_name(inside[0]) for inside in folders)
    if inner := sorted({one for one in classes if role_of(one)}):
        return Classes(why_none=f"its archives hold folders called as splits, {', '.join(inner)}: unpack them")
    return Classes(classes, column="folder", notes=(f"the classes of {name} are the folders in its archives",))


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files of an archive, and check that it is complete."""
    hint = "Download the shard again; compressed archives have to be unpacked."
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
                if member.isreg() and not member.issparse() and not _is_system(member.name):
                    yield member
            end = archive.offset
    except tarfile.TarError as error:
        raise DataError(f"{path} is damaged: {error}", hint=hint) from error
    with path.open("rb") as file:
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes a cut or a broken header for the end
            raise DataError(f"{path} is damaged: it has no end mark at byte {end}", hint=hint)


def _split_of(path: Path) -> str | None:
    words = {word for word in re.split(r"[^A-Za-z]+", path.stem.lower()) if word in SPLITS}
    return words.pop() if len(words) == 1 else None


def _is_system(name: str) -> bool:
    return any(is_system(part) for part in name.split("/") if part not in (".", ".."))
