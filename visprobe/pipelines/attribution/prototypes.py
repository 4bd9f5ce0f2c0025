"""Class prototypes from the images that are not looked into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import no_classes
from visprobe.data.open import ImageData
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet

_FEW = 10  # below that a prototype is more its images' than its class's, and is said to be


def prototype_images(images: ImageData) -> tuple[ImageSet, tuple[str, ...], dict[str, int]]:
    """The images that make prototypes, the classes, and how many images each of them has there.

    Raises:
        DataError: If there are no such images or fewer than two classes, or a class has none; before anything is read.
    """
    support, classes = images.support, images.query.classes
    if support is None or classes is None:
        raise DataError(
            no_classes(images.query)
            if classes is None
            else f"{images.name} has no training images to make prototypes of",
            hint="Give a folder with train/ and val/ and one folder per class in them.",
        )
    if len(classes) < 2:
        raise DataError(
            f"{images.name} has one class, {classes[0]}: there is none to tell it apart from",
            hint="Give images of two classes or more.",
        )
    found = Counter(item.label for item in support.items)
    counts = {name: found[number] for number, name in enumerate(classes)}
    _refuse_without(counts, support.name)
    return support, classes, counts


def few_images(counts: dict[str, int]) -> list[str]:
    """What a reader must know of prototypes that are made of few images."""
    few = {name: count for name, count in counts.items() if count < _FEW}
    if not few:
        return []
    name, count = min(few.items(), key=lambda entry: entry[1])
    return [
        f"{len(few)} of {len(counts)} prototypes are means of fewer than {_FEW} training images (class {name!r}: "
        f"{count}): maps explain nearness to these images more than to a class"
    ]


def prototypes_of(features: FeatureSet, classes: Sequence[str]) -> NDArray[np.float64]:
    """Mean direction of each class at the site that is read, shape (classes, D).

    Raises:
        DataError: If no image of a class could be read.
    """
    rows, labels = features.sites[features.consumed], features.labels
    assert labels is not None
    _refuse_without({name: int((labels == number).sum()) for number, name in enumerate(classes)}, features.images)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.stack([unit[labels == number].mean(0) for number in range(len(classes))]).astype(np.float64)


def _refuse_without(counts: dict[str, int], images: str) -> None:
    absent = [name for name, count in counts.items() if not count]
    if absent:
        named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise DataError(
            f"{len(absent)} of {len(counts)} classes have no image in {images} to make a prototype of: {named}",
            hint="Add training images of these classes, or leave them out of the images that are looked into.",
        )
