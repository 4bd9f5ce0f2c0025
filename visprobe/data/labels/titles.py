"""Readable names of classes that are WordNet ids or numbers, from lists beside the images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from visprobe.data.labels.class_column import same_name
from visprobe.errors import DataError

NAMES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "imagenet_class_index.json")
INDEX = "classnames.txt"  # line k + 1 names class k, as in CLIP_benchmark
LISTS = (INDEX, "class_names.txt", "classes.txt", "labels.txt")  # the others count only with one line per class


def class_titles(classes: tuple[str, ...] | None, folders: Sequence[Path]) -> tuple[str, ...] | None:
    """Find the readable name of every class, in the first folder and file that know any of them.

    Args:
        classes: Class names, such as "n01440764", or numbers.
        folders: Folders that may hold one of `NAMES` or, for numbers, of `LISTS`.

    Returns:
        One name per class, or the class itself if the file does not have it; None if no file has any.

    Raises:
        DataError: If such a file cannot be read.
    """
    numbers = [int(name) for name in classes or () if name.isdecimal()]
    lists = LISTS if len(numbers) == len(classes or ()) else ()
    for path in [folder / name for folder in folders for name in (*NAMES, *lists)]:
        if classes and path.is_file():
            titles = dict(zip(classes, _in_list(path, numbers), strict=False)) if path.name in LISTS else _titles(path)
            if any(name in titles for name in classes):
                return tuple(titles.get(name, name) for name in classes)
    return None


def names_in(path: Path) -> list[str]:
    """Read the lines of a list of class names.

    Raises:
        DataError: If it is not UTF-8 text.
    """
    try:
        return [same_name(line) for line in path.read_text("utf-8-sig").strip("\n").split("\n")]
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}", hint="Save it as text in UTF-8, or remove it.") from error


def _in_list(path: Path, numbers: Sequence[int]) -> list[str]:
    """Return names of numbered classes; empty if the list may be something else or start at another number."""
    names = names_in(path)
    start = 0 if 0 in numbers else 1
    count = max(numbers) + 1 - start
    fits = count <= len(names) if path.name == INDEX and start == 0 else count == len(names)
    if not fits or not all(names) or len(set(names)) < len(names) or all(map(str.isdecimal, names)):
        return []
    return [names[number - start] for number in numbers]


def _titles(path: Path) -> dict[str, str]:
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":  # {"0": ["n01440764", "tench"], ...}
            return {wnid: title.replace("_", " ") for wnid, title in json.loads(text).values()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="Remove it, or download it again.") from error
    lines = (line.split(None, 1) for line in text.splitlines())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}
