"""Opening of the argument of --data as image sets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import no_classes
from visprobe.data.labels.label_file import relabelled
from visprobe.data.layout.find import open_splits
from visprobe.data.layout.splits import role_of, with_role
from visprobe.data.named import named_data
from visprobe.data.subset import per_class, take
from visprobe.errors import UsageError


@dataclass(frozen=True)
class ImageData:
    """Image sets of one --data: those measured, and those that class prototypes come from.

    Attributes:
        name: Name for tables.
        query: Images that are measured.
        support: Images that class prototypes are made from; None if there is only one split.
        notes: Remarks for the reader on these images.
    """

    name: str
    query: ImageSet
    support: ImageSet | None
    notes: tuple[str, ...] = ()


def open_images(
    spec: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    labels: str | Path | None = None,
    subset_per_class: int | None = None,
    to_look_into: bool = False,
) -> ImageData:
    """Open the argument of --data.

    Args:
        spec: "digits" (the built-in scenes) or another registered name, a folder of images, a folder with train/ and
            val/ inside, ImageNet as Kaggle lays it out, a folder of parquet or WebDataset shards, a folder written by
            `datasets.save_to_disk`, or a Hugging Face hub id.
        split: Name of the split to measure; by default the validation split, else the test split, under any usual
            name (`visprobe.data.layout.splits`).
        limit: Most images of each split, drawn evenly over the classes.
        seed: Seed of the draws, and of the built-in scenes.
        labels: File with the classes of the measured images (`visprobe.data.labels.label_file`), or the column of
            their classes.
        subset_per_class: Most training images of each class.
        to_look_into: Whether the images are for inspection: `limit` then does not apply to training images, and
            images beside folders of images are read instead of these folders as classes.

    Raises:
        DataError: If nothing can be read there, or the labels do not fit.
        UsageError: If the split does not exist, or `subset_per_class` is given without a training split.
    """
    file = Path(labels) if labels and Path(labels).is_file() else None
    column = str(labels) if labels and file is None else None
    support_limit, keep_loose = None if to_look_into else limit, to_look_into or file is not None
    if named := named_data(spec):
        sets = named.images(limit, support_limit, seed)
    else:
        sets = open_splits(spec, column, keep_loose=keep_loose)
    query_name = _query_name(sets, split, spec)
    support_name = next((name for name in with_role(sets, "train") if name != query_name), None)
    query, support = sets[query_name], sets[support_name] if support_name else None
    if file is not None:
        query = _relabelled(query, file, support)
    if column is not None and getattr(query, "label_column", None) != column:
        raise _no_such_labels(column, query)
    notes = [note for images in (query, support) for note in getattr(images, "notes", ())]
    if support is not None and query.classes is not None and support.classes is None:
        notes.append(f"{no_classes(support)}: they are left out")
        support = None
    if query.classes is None and support is not None and support.classes is not None:
        notes.append(f"{no_classes(query)}; --labels FILE gives them")
    if split is None:
        notes += _left_out(sets, query_name, support_name)
    if subset_per_class is not None:
        if support is None:
            raise UsageError(
                f"--subset-per-class: {spec} has no training split beside {query.name}", hint="Leave it out."
            )
        support, few = per_class(support, subset_per_class, seed)
        notes += few
    return ImageData(
        name=_name(spec),
        query=take(query, limit, seed),
        support=take(support, support_limit, seed) if support is not None else None,
        notes=tuple(dict.fromkeys(notes)),  # notes on the whole data set come with each split
    )


def _relabelled(query: ImageSet, labels: Path, support: ImageSet | None) -> ImageSet:
    found = relabelled(query, labels, support.classes if support is not None else None)
    found.class_titles = getattr(support, "class_titles", None)
    return found


def _no_such_labels(labels: str, query: ImageSet) -> UsageError:
    if query.classes is not None:
        reason, hint = f"the images of {query.name} have classes already", "Leave --labels out."
    else:
        reason, hint = no_classes(query), "Name a file of classes, or a column that holds one class of each image."
    return UsageError(f"--labels {labels} does not exist as a file, and {reason}", hint=hint)


def _query_name(sets: dict[str, ImageSet], split: str | None, spec: str) -> str:
    if split is None:
        return next(iter(with_role(sets, "val", "test")), next(iter(sets)))
    role = role_of(split)
    found = split if split in sets else next(iter(with_role(sets, role) if role else ()), None)
    if found is None:
        raise UsageError(f"{spec} has no split {split!r}", hint=f"It has: {', '.join(sets)}.")
    return found


def _left_out(sets: dict[str, ImageSet], query: str, support: str | None) -> list[str]:
    """Return notes on splits that are neither measured nor used for prototypes."""
    others = [name for name in sets if name not in (query, support)]
    return [f"{sets[name].name} is left out; --split {name} measures it" for name in others]


def _name(spec: str) -> str:
    return Path(os.path.abspath(spec)).name  # abspath gives "." and ".." a name
