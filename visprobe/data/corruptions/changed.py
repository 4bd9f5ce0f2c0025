"""Image sets whose images are changed when they are read."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from visprobe.data.image_set import BadImage, ImageSet, Item, decode


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
