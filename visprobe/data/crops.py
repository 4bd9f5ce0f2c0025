"""Images of which less is shown: fewer pixels, or the centre alone."""

from __future__ import annotations

import math

from PIL import Image

from visprobe.data.changed import Changed
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
        if pixels < 1:
            raise UsageError(f"images cannot be reduced to {pixels} pixels", hint="Give whole numbers from 1 up.")
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
        if not 0 < share <= 1:
            raise UsageError(f"a centre of {share:g} of each side cannot be kept", hint="Give shares in (0, 1].")
        super().__init__(images, f"centre {share:g}")
        self._share = share

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """The middle of `image`; rounded up, so that no side vanishes and strips grow no longer."""
        width, height = (math.ceil(side * self._share - 1e-9) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
