"""Classes of a flat folder's images from a file beside it, in the forms in which ImageNet's labels come."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from visprobe.data.class_names import sorted_classes
from visprobe.data.image_set import ImageSet
from visprobe.data.subset import Relabelled
from visprobe.errors import DataError, UsageError

FILE_COLUMNS = frozenset({"file", "file_name", "filename", "image", "image_id", "imageid", "path", "name"})
LABEL_COLUMNS = ("label", "class", "wnid", "synset")
KAGGLE = "predictionstring"  # "n03995372 85 1 499 272": the class, then boxes
LISTS = ("synsets.txt", "synset_words.txt", "LOC_synset_mapping.txt")  # the class of number k in line k + 1
_FORMS = "One class per line in the order of the file names, or lines 'file class' or 'file,class'."


def relabelled(images: ImageSet, file: Path, classes: tuple[str, ...] | None) -> Relabelled:
    """The images with the classes that `file` gives them.

    Classes are matched by name. Numbers that are no class names are positions in one of `LISTS`, from 0, if 0 is
    among them; ILSVRC2012 ids, from 1, in the order of meta.mat, if the last id is among them. The list or meta.mat
    lies beside `file`.

    Args:
        images: The images, none of which has a class.
        file: One class per line in the order of the file names (ILSVRC2012_validation_ground_truth.txt), or one
            line per image, "file class" (Caffe's val.txt) or "file,class" (Kaggle's LOC_val_solution.csv).
        classes: Class names of the training images; None without training images: the file's own are used.

    Raises:
        UsageError: If the images have classes, or `file` does not exist.
        DataError: If the file does not list each of the images exactly once, or a class cannot be mapped.
    """
    if images.classes is not None:
        raise UsageError(
            f"--labels {file}: the images of {images.name} have classes already", hint="Leave --labels out."
        )
    if not file.is_file():
        raise UsageError(f"--labels {file} does not exist", hint="Check the path after --labels.")
    labels = _in_order(images, _records(file), file)
    if classes is None:
        classes = sorted_classes(set(labels))
    elif not set(labels) <= set(classes) and all(label.isdecimal() for label in labels):
        labels = _mapped(labels, file)
    if unknown := sorted(set(labels) - set(classes)):
        raise DataError(
            f"{len(unknown)} classes of {file} are not among the {len(classes)} of the training images, "
            f"the first {unknown[0]}",
            hint="Give a file whose classes are called as the folders in train.",
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return Relabelled(images, [numbers[label] for label in labels], classes)


def _records(file: Path) -> list[tuple[str, ...]]:
    """Lines as (class,) or (file, class)."""
    try:
        text = file.read_text("utf-8-sig")
    except ValueError as error:
        raise DataError(f"{file} is no text file", hint=_FORMS) from error
    lines = [line for line in text.split("\n") if line.strip()]
    separator = next((mark for mark in ",\t" if lines and mark in lines[0]), None)
    if separator is None:
        records = [tuple(line.rsplit(None, 1)) for line in lines]
    else:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
        column, class_of = _class_column(rows[0])
        short = next((number for number, row in enumerate(rows) if len(row) <= column), None)
        if short is not None:
            raise DataError(f"{file}: row {short + 1} is {lines[short]!r}", hint=_FORMS)
        records = [(row[0], class_of(row[column])) for row in rows]
    if not records or len({len(record) for record in records}) != 1:
        raise DataError(f"{file} is empty or mixes lines with and without a file name", hint=_FORMS)
    is_header = len(records[0]) == 2 and records[0][0].lower() in FILE_COLUMNS
    return records[1:] if is_header else records


def _class_column(header: Sequence[str]) -> tuple[int, Callable[[str], str]]:
    """Where the class stands, and how it is taken out of its cell."""
    names = [name.lower() for name in header]
    if KAGGLE in names:
        return names.index(KAGGLE), lambda cell: cell.split(" ", 1)[0]
    return next((names.index(name) for name in LABEL_COLUMNS if name in names), 1), str


def _in_order(images: ImageSet, records: Sequence[tuple[str, ...]], file: Path) -> list[str]:
    """The class of each image, in the order of the set."""
    if records and len(records[0]) == 1:
        if len(records) != len(images.items):
            raise DataError(
                f"{file} has {len(records)} lines for the {len(images.items)} images of {images.name}", hint=_FORMS
            )
        return [record[0] for record in records]
    index_of = _index_of_names(images)
    labels: list[str | None] = [None] * len(images.items)
    unknown = []
    for name, label in records:
        index = index_of.get(name.removeprefix("./"), index_of.get(name.rsplit("/", 1)[-1]))
        if index is None:
            unknown.append(name)
        elif labels[index] is not None:
            raise DataError(f"{file} lists {name} twice", hint=_FORMS)
        else:
            labels[index] = label
    if unknown:
        raise DataError(
            f"{len(unknown)} files that {file} lists are not among the {len(images.items)} images of {images.name}, "
            f"the first {unknown[0]}",
            hint="Give the label file of these images, or download the missing ones.",
        )
    if without := [index for index, label in enumerate(labels) if label is None]:
        raise DataError(
            f"{file} has no label for {len(without)} of the {len(labels)} images of {images.name}, "
            f"the first {images.items[without[0]].id}",
            hint="Add their labels, or remove the images.",
        )
    return [label for label in labels if label is not None]


def _index_of_names(images: ImageSet) -> dict[str, int | None]:
    """Images by path, file name and file name without suffix; None where two share one."""
    found: dict[str, int | None] = {}
    for index, item in enumerate(images.items):
        name = item.id.rsplit("/", 1)[-1]
        for key in {item.id, name, name.rsplit(".", 1)[0]}:
            found[key] = None if key in found else index
    return found


def _mapped(labels: Sequence[str], file: Path) -> list[str]:
    """Class names of numbers, by the list or the meta.mat beside `file`."""
    numbers = [int(label) for label in labels]
    from_zero = min(numbers) == 0
    names = _listed(file.parent, file) if from_zero else _ilsvrc_ids(file)
    last = len(names) - 1 if from_zero else len(names)
    if max(numbers) > last:
        raise DataError(f"{file} has the class {max(numbers)}; the list beside it ends at {last}", hint=_LIST)
    if not from_zero and max(numbers) != last:
        raise DataError(
            f"{file} has classes {min(numbers)} to {max(numbers)} of {last}: they may count from 0 or from 1",
            hint="Write the names of the classes instead of numbers.",
        )
    return [names[number if from_zero else number - 1] for number in numbers]


_LIST = (
    f"Numbers from 0 need {', '.join(LISTS)} beside them; ILSVRC2012 ids, from 1, need the devkit's meta.mat. "
    "The order of sorted folder names is not that of the ids."
)


def _listed(folder: Path, file: Path) -> list[str]:
    path = next((folder / name for name in LISTS if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{file} has numbers, the training images have class names", hint=_LIST)
    return [line.split(None, 1)[0] for line in path.read_text("utf-8").split("\n") if line.strip()]


def _ilsvrc_ids(file: Path) -> list[str]:
    """WordNet ids in the order of ILSVRC2012_ID, from the devkit's meta.mat."""
    path = file.parent / "meta.mat"
    if not path.is_file():
        raise DataError(f"{file} has numbers, the training images have class names", hint=_LIST)
    from scipy.io import loadmat

    try:
        synsets: Any = loadmat(path, squeeze_me=True)["synsets"]
        # Ids beyond the last class belong to the classes' ancestors.
        leaves = [row for row in synsets if int(row["num_children"]) == 0]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        return [names[number] for number in range(1, len(names) + 1)]
    except Exception as error:  # the library raises many types on damaged files
        raise DataError(f"{path} cannot be read: {error}", hint="Take meta.mat of ILSVRC2012_devkit_t12.") from error
