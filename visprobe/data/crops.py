"""Images with less to see: fewer pixels, or the centre alone."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image

from visprobe.data.image_set import BadImage, ImageSet, Item, decode
from visprobe.errors import UsageError


class Changed:
    """Base class of image sets with each image changed, as PNG files, with the original ids and classes.

    Args:
        images: Original images.
        what: The change, for the name of the set.
    """

    def __init__(self, images: ImageSet, what: str) -> None:
        self._images = images
        self.name = f"{images.name} ({what})"
        self.items: Sequence[Item] = images.items
        self.classes = images.classes

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """Return the changed `image`, decoded from `data`."""
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        """Return the changed image as a PNG file; raises OSError if the image cannot be read."""
        data = self._images.read(index)
        try:
            image = decode(data)
        except BadImage:
            return data  # decoding it again reports the damage, for the same reason as the original
        buffer = io.BytesIO()
        self.change(image, data).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


class Resized(Changed):
    """Images reduced to few pixels, which the encoder's processor enlarges again.

    Args:
        images: Original images; smaller ones stay as they are.
        pixels: Shorter side afterwards, in pixels.

    Raises:
        UsageError: If `pixels` is less than 1.
    """

    def __init__(self, images: ImageSet, pixels: int) -> None:
        check_sizes([pixels], [])
        super().__init__(images, f"{pixels} pixels")
        self._pixels = pixels

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """Return `image` with `pixels` on its shorter side, proportions kept; bicubic with antialiasing."""
        shorter = min(image.size)
        if shorter <= self._pixels:
            return image
        width, height = (max(1, round(side * self._pixels / shorter)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)


class Cropped(Changed):
    """Images cropped to their centre.

    Args:
        images: Original images.
        share: Share of each side that is kept.

    Raises:
        UsageError: If `share` is not above 0 and at most 1.
    """

    def __init__(self, images: ImageSet, share: float) -> None:
        check_sizes([], [share])
        super().__init__(images, f"centre {share:g}")
        self._share = share

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """Return the centre of `image`, rounded up so that no side vanishes and thin strips become no thinner."""
        # The small offset keeps float error from rounding a whole number of pixels up.
        width, height = (math.ceil(side * self._share - 1e-9) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))


def check_sizes(pixels: Sequence[int], shares: Sequence[float]) -> None:
    """Refuse sizes that leave nothing, or more than the image.

    Raises:
        UsageError: If a number of pixels is below 1, or a share not above 0 and at most 1; the message names all
            wrong ones of a kind.
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
