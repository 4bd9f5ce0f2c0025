"""From a folder or a hub id to its splits, by names and shapes that leave no doubt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from visprobe.data.columns import share_labels
from visprobe.data.folder import ImageFolder, classes_of, folders_in, image_paths, is_system, refuse_empty_classes
from visprobe.data.formats import LOOKS
from visprobe.data.hf import MARKERS, HuggingFaceImages, load_splits
from visprobe.data.image_set import ImageSet
from visprobe.data.label_file import relabelled
from visprobe.data.masks import open_masked_rows, open_masks
from visprobe.data.parquet import ParquetImages, parquet_splits
from visprobe.data.split_folders import refuse_lookalikes, refuse_unknown_splits, split_folders
from visprobe.data.splits import role_of, with_role
from visprobe.data.tar import TarImages, open_tars, tar_splits
from visprobe.data.titles import class_titles
from visprobe.errors import DataError

KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # where the splits of Kaggle's ImageNet lie
KAGGLE_LABELS = "LOC_val_solution.csv"


def open_splits(spec: str, labels: str | None = None) -> dict[str, ImageSet]:
    """The splits of what a user named, by name.

    Args:
        spec: A folder or a hub id.
        labels: The column of classes, as a user named it.

    A folder is, in this order: one that `datasets.save_to_disk` wrote, images with masks beside them, Kaggle's
    ImageNet, parquet shards, WebDataset shards, folders of images.

    Raises:
        DataError: If nothing can be read there, or it could be two of these.
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
    return _open_folders(folder, name, [folder], labels)


def _titled(sets: Mapping[str, HuggingFaceImages | ParquetImages | TarImages], folder: Path) -> dict[str, ImageSet]:
    """The sets with readable names of their classes, from a file in the folder or, if it is one split, above it."""
    beside = [folder, *([folder.absolute().parent] if role_of(folder.absolute().name) else [])]
    for images in sets.values():
        images.class_titles = class_titles(images.classes, beside)
    share_labels(list(sets.values()))
    return dict(sets)


def _open_folders(folder: Path, name: str, beside: Sequence[Path], labels: str | None = None) -> dict[str, ImageSet]:
    """Splits of one numbering of classes; a split whose images lie in no class folder has no classes."""
    places = split_folders(folder)
    if not places:
        classes = classes_of(sorted(image_paths(folder)))
        if classes:
            refuse_unknown_splits(folder)
            refuse_empty_classes(folder)
        return {name: ImageFolder(folder, name=name, titles=class_titles(classes, beside), labels=labels)}
    left_out = _beside_splits(folder, places)
    found = {split: classes_of(sorted(image_paths(place))) for split, place in places.items()}
    refuse_lookalikes(found, folder)
    for split, names in found.items():
        if names:
            refuse_empty_classes(places[split])
    classes = tuple(sorted({name for names in found.values() for name in names or ()}))
    titles = class_titles(classes, beside)
    sets = {
        split: ImageFolder(place, name=f"{name}/{split}", classes=classes, titles=titles)
        if found[split]
        else ImageFolder(place, name=f"{name}/{split}", labels=labels)
        for split, place in places.items()
    }
    if left_out:
        first = next(iter(with_role(sets, "val", "test", "train")))
        sets[first].notes = (*sets[first].notes, f"{folder}: no split, so left out: {', '.join(left_out)}")
    return {**sets}


def _is_inside_kaggle(folder: Path) -> bool:
    return folder.resolve().name == "CLS-LOC" and any(role_of(path.name) for path in folders_in(folder))


def _open_kaggle(data: Path, name: str) -> dict[str, ImageSet]:
    """Kaggle's ImageNet: train in class folders, val and test flat, the labels of val in a file some folders above."""
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
    """Shards beside folders of images, or of two kinds: which of them is meant cannot be known."""
    images = [p.name for p in (folder, *sorted(folder.iterdir())) if p.is_dir() and _holds_images(p)]
    kinds = [kind for kind, there in (("parquet files", parquet), ("tar files", tars), ("images", images)) if there]
    if len(kinds) > 1:
        raise DataError(
            f"{folder} holds {' and '.join(kinds)}" + (f" (in {images[0]})" if images else ""),
            hint="Move what is not meant out of the folder.",
        )


def _beside_splits(folder: Path, splits: Mapping[str, Path]) -> list[str]:
    """Folders of images beside the splits, which are left out.

    A class, too, may be called "train": images directly in it, and in other folders beside it, are ambiguous.
    """
    flat = [name for name in splits if (folder / name).is_dir() and _holds_images(folder / name)]
    classes = [p.name for p in folders_in(folder) if not role_of(p.name) and _holds_images(p)]
    if flat and classes:
        raise DataError(
            f"{folder} holds images in {flat[0]} and in {', '.join(classes[:3])}: {flat[0]} may be a split or a class",
            hint=f"If it is a class, move all classes into one folder named val; if a split, move {classes[0]} away.",
        )
    if not any((folder / name).is_dir() for name in splits):  # they lie deeper, in the only folder of images
        return []
    linked = {inside.resolve() for place in splits.values() for inside in folders_in(place)}
    others = [p for p in folders_in(folder) if not role_of(p.name) and p.resolve() not in linked]
    return [place.name for place in others if any(image_paths(place))]


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in LOOKS and not is_system(path.name) for path in folder.iterdir())
