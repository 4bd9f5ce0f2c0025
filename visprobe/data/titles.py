"""Readable names of classes that are WordNet ids, from the files that lie beside ImageNet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from visprobe.errors import DataError

NAMES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "imagenet_class_index.json")


def class_titles(classes: tuple[str, ...] | None, folders: Sequence[Path]) -> tuple[str, ...] | None:
    """The readable name of every class, from the first folder and file that know any of them.

    Args:
        classes: Class names, such as "n01440764".
        folders: Where `NAMES` may lie.

    Returns:
        One name per class, the class itself where the file does not know it; None if no file knows any.

    Raises:
        DataError: If such a file cannot be read.
    """
    for path in [folder / name for folder in folders for name in NAMES]:
        if classes and path.is_file():
            titles = _titles(path)
            if any(name in titles for name in classes):
                return tuple(titles.get(name, name) for name in classes)
    return None


def _titles(path: Path) -> dict[str, str]:
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":  # {"0": ["n01440764", "tench"], ...}
            return {wnid: title.replace("_", " ") for wnid, title in json.loads(text).values()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="Remove it, or download it again.") from error
    lines = (line.split(None, 1) for line in text.splitlines())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}
