"""Opening of a folder or hub id as its splits, by unambiguous names and shapes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.class_column import refuse_lookalikes
from visprobe.data.labels.columns import share_labels
from visprobe.data.labels.label_file import relabelled
from visprobe.data.labels.masks import open_masked_rows, open_masks
from visprobe.data.labels.titles import class_titles
from visprobe.data.layout.left_out import described, without_images
from visprobe.data.layout.split_folders import Layout, find_layout, refuse_unknown_splits
from visprobe.data.layout.splits import role_of
from visprobe.data.sources.folder import ImageFolder, folder_classes, folders_in, image_paths, is_image
from visprobe.data.sources.hf import MARKERS, HuggingFaceImages, load_splits
from visprobe.data.sources.parquet import ParquetImages, parquet_splits
from visprobe.data.sources.tar import TarImages, open_tars, tar_splits
from visprobe.errors import DataError

KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # folders of the splits in Kaggle's ImageNet
KAGGLE_LABELS = "LOC_val_solution.csv"


def open_splits(spec: str, labels: str | None = None, *, keep_loose: bool = False) -> dict[str, ImageSet]:
    """Open the splits of a folder or hub id, by name.

    Args:
        spec: A folder or a hub id.
        labels: Column of classes named by the user.
        keep_loose: Whether to read images that lie beside folders, instead of these folders as classes.

    A folder is, in this order: one written by `datasets.save_to_disk`, images with masks beside them, Kaggle's
    ImageNet, parquet shards, WebDataset shards, folders of images.

    Raises:
        DataError: If nothing can be read there, or the content is ambiguous.
    """
    folder, name = Path(spec), Path(os.path.abspath(spec)).name
    if not folder.exists() and (spec.count("/") > 1 or spec.startswith((".", "/", "~"))):
        raise DataError(f"{spec} does not exist", hint="Check the path after --data; 'digits' is built in.")
    if folder.is_file():
        raise DataError(
            f"{spec} is a file, not a folder",
            hint="Unpack an archive and give the folder; of parquet or tar shards give the folder that holds them.",
        )
    if not folder.is_dir() or any((folder / marker).is_file() for marker in MARKERS):
        rows_of = load_splits(spec)
        masked: dict[str, ImageSet] = {**(open_masked_rows(rows_of, name) or {})}
        if masked:
            return masked
        return _titled({s: HuggingFaceImages(r, name=f"{name}/{s}", labels=labels) for s, r in rows_of.items()}, folder)
    if pairs := open_masks(folder, name):
        return {**pairs}
    data = next((folder / place for place in KAGGLE if (folder / place).is_dir()), None)
    if data is not None or _is_inside_kaggle(folder):
        return _open_kaggle(data or folder, name)
    parquet, tars = parquet_splits(folder), tar_splits(folder)
    if parquet or tars:
        _refuse_mixture(folder, parquet, tars)
        if parquet:
            return _titled({s: ParquetImages(p, name=f"{name}/{s}", labels=labels) for s, p in parquet.items()}, folder)
        return _titled(open_tars(tars, name, labels), folder)
    return _open_folders(folder, name, [folder], labels, keep_loose)


def _titled(sets: Mapping[str, HuggingFaceImages | ParquetImages | TarImages], folder: Path) -> dict[str, ImageSet]:
    """Add readable class names to the sets, from a file in the folder or, for a single split, above it."""
    beside = [folder, *([folder.absolute().parent] if role_of(folder.absolute().name) else [])]
    refuse_lookalikes({split: images.classes for split, images in sets.items()}, folder)
    for images in sets.values():
        images.class_titles = class_titles(images.classes, beside)
    share_labels(list(sets.values()))
    return dict(sets)


def _open_folders(
    folder: Path, name: str, beside: Sequence[Path], labels: str | None = None, keep_loose: bool = False
) -> dict[str, ImageSet]:
    """Open folders of images; all splits share one numbering of classes, and flat splits have no classes."""
    layout = find_layout(folder)
    if not layout.splits:
        images = _open_classes(folder, layout, name, beside, labels, keep_loose)
        images.notes = (*layout.notes, *images.notes)
        return {name: images}
    found = {split: folder_classes(place, keep_loose=keep_loose) for split, place in layout.splits.items()}
    refuse_lookalikes(found, folder)
    notes = list(layout.notes)
    for split, place in layout.splits.items():
        known = {one for other, names in found.items() if other != split for one in names or ()}
        notes += _empty(place, known) if found[split] else _aside(place)
    classes = tuple(sorted({one for names in found.values() for one in names or ()}))
    titles = class_titles(classes, _and_inner(beside, layout.splits.values()))
    sets = {
        split: ImageFolder(place, name=f"{name}/{split}", classes=classes, titles=titles)
        if found[split]
        else ImageFolder(place, name=f"{name}/{split}", classes=(), labels=labels)
        for split, place in layout.splits.items()
    }
    for images in sets.values():
        images.notes = (*notes, *images.notes)
    return {**sets}


def _open_classes(
    folder: Path, layout: Layout, name: str, beside: Sequence[Path], labels: str | None, keep_loose: bool
) -> ImageFolder:
    """Open a folder without splits."""
    place = layout.classes
    if place is None or not (classes := folder_classes(place, keep_loose=keep_loose)):
        images = ImageFolder(place or folder, name=name, classes=(), labels=labels)
        images.notes = (*(_aside(place) if place is not None else ()), *images.notes)
        return images
    refuse_unknown_splits(place)
    notes = _empty(place)
    images = ImageFolder(place, name=name, titles=class_titles(classes, [*beside, place]), labels=labels)
    images.notes = (*notes, *images.notes)
    return images


def _empty(place: Path, known: Collection[str] = ()) -> list[str]:
    """Return a note on folders without images beside those of the classes."""
    return _not_read(place, without_images(place, known))


def _aside(place: Path) -> list[str]:
    """Return a note on folders without images, such as those of boxes, beside unlabelled images."""
    return _not_read(place, [path for path in folders_in(place) if not any(image_paths(path))])


def _not_read(place: Path, folders: Sequence[Path]) -> list[str]:
    return [f"{place}: not read: {', '.join(map(described, folders))}"] if folders else []


def _and_inner(beside: Sequence[Path], splits: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys([*beside, *(place.parent for place in splits)]))


def _is_inside_kaggle(folder: Path) -> bool:
    return folder.resolve().name == "CLS-LOC" and any(role_of(path.name) for path in folders_in(folder))


def _open_kaggle(data: Path, name: str) -> dict[str, ImageSet]:
    """Open Kaggle's ImageNet: train in class folders, val and test flat, val's labels in a file some folders above."""
    above = [data, *data.resolve().parents[:3]]
    sets = _open_folders(data, name, above)
    solution = next((folder / KAGGLE_LABELS for folder in above if (folder / KAGGLE_LABELS).is_file()), None)
    if solution is not None and "val" in sets and sets["val"].classes is None:
        train = sets.get("train")
        labelled = relabelled(sets["val"], solution, train.classes if train is not None else None)
        labelled.class_titles = class_titles(labelled.classes, above)
        sets["val"] = labelled
    return sets


def _refuse_mixture(folder: Path, parquet: object, tars: object) -> None:
    """Refuse shards of two kinds or beside folders of images, since either may be meant."""
    places = [folder, *folders_in(folder)]
    images = [place.name for place in places if any(is_image(path.name) for path in place.iterdir())]
    kinds = [kind for kind, there in (("parquet files", parquet), ("tar files", tars), ("images", images)) if there]
    if len(kinds) > 1:
        raise DataError(
            f"{folder} holds {' and '.join(kinds)}" + (f" (in {images[0]})" if images else ""),
            hint="Move what is not meant out of the folder.",
        )
