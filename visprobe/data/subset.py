"""Subsets of image sets: evenly spaced, drawn evenly over classes, or a number of each class."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from visprobe.data.image_set import ImageSet, Item
from visprobe.data.labels.annotated import HasCaptions, HasMasks, HasTargets, no_classes
from visprobe.data.named import HasPrompts
from visprobe.data.prompts import Prompt
from visprobe.errors import UsageError


class Subset:
    """Images `indices` of `whole`, under its name and with its classes.

    It has the targets, masks, captions and prompts of `whole`, and lacks those that `whole` lacks.
    """

    def __init__(self, whole: ImageSet, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, tuple(indices)
        self.name = whole.name
        self.notes: tuple[str, ...] = getattr(whole, "notes", ())
        self.classes = whole.classes
        self.why_no_classes: str = getattr(whole, "why_no_classes", "")
        self.class_titles: tuple[str, ...] | None = getattr(whole, "class_titles", None)
        self.items: Sequence[Item] = tuple(whole.items[index] for index in self.indices)
        if isinstance(whole, HasTargets):
            self.targets = whole.targets.rows(self.indices)
        if isinstance(whole, HasCaptions):
            captions = whole.captions
            self.captions = tuple(captions[index] for index in self.indices)
        if isinstance(whole, HasMasks):
            self.mask_classes, self.ignored = whole.mask_classes, whole.ignored
            masked = whole

            def mask(index: int) -> NDArray[np.int64]:
                return masked.mask(self.indices[index])

            self.mask = mask
        if isinstance(whole, HasPrompts):
            asking = whole

            def prompts(index: int) -> Sequence[tuple[Prompt, NDArray[np.bool_] | None]]:
                return asking.prompts(self.indices[index])

            self.prompts = prompts

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""
        return self.whole.read(self.indices[index])


class Relabelled(Subset):
    """Images of `whole` with other labels.

    Args:
        whole: Original images.
        labels: Class of each image, an index into `classes`.
        classes: Class names.
        titles: Readable names of the classes, if known.
    """

    def __init__(
        self, whole: ImageSet, labels: Sequence[int], classes: tuple[str, ...], titles: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(whole, range(len(whole.items)))
        self.items = tuple(Item(item.id, label) for item, label in zip(whole.items, labels, strict=True))
        self.classes, self.class_titles = classes, titles


def first_spread(images: ImageSet, count: int) -> ImageSet:
    """Return at most `count` images at equal distances in the order of the set."""
    total = len(images.items)
    if count >= total:
        return images
    return Subset(images, tuple(number * total // count for number in range(count)))


def take(images: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """Draw at most `limit` images, as evenly over the classes as possible, the same for the same seed."""
    if limit is None or limit >= len(images.items):
        return images
    if limit < 1:
        raise UsageError(f"--limit {limit} leaves no image", hint="Give a whole number from 1 up.")
    groups = _by_class(images)
    generator = random.Random(seed)
    for members in groups.values():
        generator.shuffle(members)
    # Sorting by rank within the class takes one image of every class before a second of any.
    rounds = [(rank, order, index) for order, m in enumerate(groups.values()) for rank, index in enumerate(m)]
    return Subset(images, sorted(index for _, _, index in sorted(rounds)[:limit]))


def per_class(images: ImageSet, count: int, seed: int) -> tuple[ImageSet, tuple[str, ...]]:
    """Draw at most `count` images of every class, the same for the same seed.

    Args:
        images: Labelled images.
        count: Number of images of each class.
        seed: Seed of the draw; a smaller `count` draws a subset of a larger one's images.

    Returns:
        Images in the order of the set, and notes on classes that have fewer.

    Raises:
        UsageError: If the images are unlabelled or `count` leaves none.
    """
    if count < 1:
        raise UsageError(f"--subset-per-class {count} leaves no image", hint="Give a whole number from 1 up.")
    if images.classes is None:
        raise UsageError(f"--subset-per-class: {no_classes(images)}", hint="Leave it out.")
    chosen: list[int] = []
    short: dict[str, int] = {}
    for label, members in _by_class(images).items():
        name = images.classes[label or 0]
        # A generator per class: its draw does not depend on the other classes.
        random.Random(f"{seed}/{name}").shuffle(members)
        chosen += members[:count]
        if len(members) < count:
            short[name] = len(members)
    return Subset(images, sorted(chosen)), _too_few(images.name, count, short)


def _too_few(name: str, count: int, short: dict[str, int]) -> tuple[str, ...]:
    if not short:
        return ()
    first, has = min(short.items(), key=lambda entry: entry[1])
    few = f"{len(short)} classes of {name} have" if len(short) > 1 else f"1 class of {name} has"
    return (f"{few} fewer than {count} images, the fewest {first} with {has}",)


def _by_class(images: ImageSet) -> dict[int | None, list[int]]:
    groups: dict[int | None, list[int]] = defaultdict(list)
    for index, item in enumerate(images.items):
        groups[item.label].append(index)
    return groups
