"""Images of which less is shown: fewer pixels, or the centre alone."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image

from visprobe.data.image_set import BadImage, ImageSet, Item, decode
from visprobe.errors import UsageError


class Changed:
    """The images of `images` after `change`, as PNG files, with their ids and classes.

    Args:
        images: What is changed.
        what: What is done to them, for the name of the set.
    """

    def __init__(self, images: ImageSet, what: str) -> None:
        self._images = images
        self.name = f"{images.name} ({what})"
        self.items: Sequence[Item] = images.items
        self.classes = images.classes

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """`image`, decoded from `data`, as it is to be seen."""
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        """The changed image as a PNG file; raises OSError if the image cannot be read."""
        data = self._images.read(index)
        try:
            image = decode(data)
        except BadImage:
            return data  # who decodes it finds it damaged, for the same reason as the original
        buffer = io.BytesIO()
        self.change(image, data).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


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
