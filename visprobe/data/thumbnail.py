"""One image of a set, small enough to stand in a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from visprobe.data.image_set import BadImage, ImageSet, decode

PREFIX = "data:image/jpeg;base64,"


def thumbnail(images: ImageSet, row: int, side: int = 96) -> str | None:
    """Image `row` as a data URI, its longer side at most `side` pixels; None if it is gone since it was measured."""
    try:
        image = decode(images.read(row), reduced=True)
    except (OSError, BadImage):
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return PREFIX + base64.b64encode(data.getvalue()).decode()
