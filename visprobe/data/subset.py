"""Some images of a set, spread evenly over it."""

from __future__ import annotations

from dataclasses import dataclass

from visprobe.data.image_set import ImageSet, Item


@dataclass(frozen=True)
class Subset:
    """Images `indices` of `whole`, under its name and with its classes."""

    whole: ImageSet
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the whole set."""
        return self.whole.name

    @property
    def items(self) -> tuple[Item, ...]:
        """The images in order."""
        return tuple(self.whole.items[index] for index in self.indices)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names of the whole set."""
        return self.whole.classes

    def read(self, index: int) -> bytes:
        """The encoded image file of `items[index]`."""
        return self.whole.read(self.indices[index])


def first_spread(images: ImageSet, count: int) -> ImageSet:
    """At most `count` images at equal distances in the order of the set."""
    total = len(images.items)
    if count >= total:
        return images
    return Subset(images, tuple(number * total // count for number in range(count)))
