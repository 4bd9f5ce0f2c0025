"""Images of which less is shown: fewer pixels, or the centre alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from visprobe.data.corruptions.changed import Changed
from visprobe.data.image_set import ImageSet
from visprobe.errors import UsageError


class Resized(Changed):
    """Images reduced to few pixels; the processor of an encoder enlarges them again to what it takes.

    Args:
        images: What is reduced. An image that is no larger stays as it is.
        pixels: Of the shorter side afterwards.

    Raises:
        UsageError: If `pixels` is less than 1.
    """

    def __init__(self, images: ImageSet, pixels: int) -> None:
        check_sizes([pixels], [])
        super().__init__(images, f"{pixels} pixels")
        self._pixels = pixels

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """`image` with `pixels` on its shorter side, its proportions kept; bicubic with antialiasing."""
        shorter = min(image.size)
        if shorter <= self._pixels:
            return image
        width, height = (max(1, round(side * self._pixels / shorter)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)


class Cropped(Changed):
    """The centre of images.

    Args:
        images: What is cropped.
        share: Of each side that is kept.

    Raises:
        UsageError: If `share` is not above 0 and at most 1.
    """

    def __init__(self, images: ImageSet, share: float) -> None:
        check_sizes([], [share])
        super().__init__(images, f"centre {share:g}")
        self._share = share

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """The middle of `image`; rounded up, so that no side vanishes and strips grow no longer."""
        width, height = (math.ceil(side * self._share - 1e-9) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def check_sizes(pixels: Sequence[int], shares: Sequence[float]) -> None:
    """Refuse sizes that leave nothing, or more than there is.

    Raises:
        UsageError: If a number of pixels is less than 1, or a share is not above 0 and at most 1; all of one kind
            are said.
    """
    if few := [number for number in pixels if number < 1]:
        raise UsageError(
            f"images cannot be reduced to {', '.join(map(str, few))} pixels", hint="Give whole numbers from 1 up."
        )
    if outside := [share for share in shares if not 0 < share <= 1]:
        raise UsageError(
            f"a centre of {', '.join(f'{share:g}' for share in outside)} of each side cannot be kept",
            hint="Give shares above 0 and at most 1.",
        )
