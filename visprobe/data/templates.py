"""Sentences about classes: what a text tower is given in the place of a class name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import HasTitles
from visprobe.errors import DataError
from visprobe.io.regular import read_text

# Plain words of our own; the 80 sentences published with CLIP can be given as a file.
TEMPLATES = (
    "{}",
    "a picture of {}.",
    "a picture that shows {}.",
    "there is {} in this picture.",
    "{}, seen from close by.",
    "{}, seen from far away.",
)
_SLOT = "{}"


def read_templates(path: Path) -> tuple[str, ...]:
    """The templates in a text file, one per line, with {} where the class name goes; empty lines are left out.

    Raises:
        DataError: If the file cannot be read, holds none, or has lines without exactly one {}; all are listed.
    """
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", hint="Give a text file with one template per line."
        ) from None
    found = tuple(line for line in lines if line)
    wrong = [number for number, line in enumerate(lines, start=1) if line and line.count(_SLOT) != 1]
    if wrong or not found:
        where = f"lines {', '.join(map(str, wrong))} without exactly one {{}}" if wrong else "no template"
        raise DataError(f"{path} has {where}", hint="Write one sentence per line, such as: a picture of {}.")
    return found


def prompts(name: str, templates: Sequence[str]) -> list[str]:
    """The sentences about one class."""
    return [template.replace(_SLOT, name) for template in templates]


def spoken_names(classes: Sequence[str], images: ImageSet | None) -> tuple[str, ...]:
    """What to call each class in a sentence.

    Args:
        classes: Class names.
        images: Their images, which may know readable titles.

    Returns:
        The first of a title's synonyms, or the whole title where two classes share that; without titles the class
        names with spaces for underscores.
    """
    titles = images.class_titles if isinstance(images, HasTitles) else None
    known: dict[str, str] = dict(zip((images and images.classes) or (), titles or (), strict=False))
    full = [known.get(name, name).replace("_", " ") for name in classes]
    short = [title.split(",")[0].strip() for title in full]
    shared = Counter(short)
    return tuple(first if first and shared[first] == 1 else title for first, title in zip(short, full, strict=True))
