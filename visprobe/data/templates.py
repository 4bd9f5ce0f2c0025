"""Templates of sentences about classes, which a text tower reads instead of bare class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import HasTitles
from visprobe.errors import DataError
from visprobe.io.regular import read_text

# Our own; the 80 templates published with CLIP can be given as a file.
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
    """Read the templates in a text file, one per line, with {} in place of the class name; empty lines are skipped.

    Raises:
        DataError: If the file cannot be read, has no template, or has lines without exactly one {}; all are listed.
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
    """Return the sentences about one class."""
    return [template.replace(_SLOT, name) for template in templates]


def spoken_names(classes: Sequence[str], images: ImageSet | None) -> tuple[str, ...]:
    """Return the name of each class for use in a sentence.

    Args:
        classes: Class names.
        images: Image set, which may know readable titles.

    Returns:
        First synonym of each title, or the whole title where two classes share the first; without titles the class
        names with spaces for underscores.
    """
    titles = images.class_titles if isinstance(images, HasTitles) else None
    known: dict[str, str] = dict(zip((images and images.classes) or (), titles or (), strict=False))
    full = [known.get(name, name).replace("_", " ") for name in classes]
    short = [title.split(",")[0].strip() for title in full]
    shared = Counter(short)
    return tuple(first if first and shared[first] == 1 else title for first, title in zip(short, full, strict=True))
