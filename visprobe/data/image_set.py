"""Image sets, and decoding of image files with damage reported instead of hidden."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from visprobe.data.sources.formats import FORMATS, unreadable

MAX_PIXELS = 64_000_000
LARGE = 20_000_000  # pixels above which a decoded image and the processor's copies of it fill a machine's memory
_KEPT = 4_000_000  # most pixels kept of such an image; square towers read less than one million
MAX_ASPECT = 200  # processors that resize the shorter side would make gigabytes of a longer strip
# Let Pillow allocate up to 64 MB of an image in one block: the C library returns large blocks to the system when freed,
# but keeps Pillow's default 16 MB blocks for each thread.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]
_ORIENTATION = 0x0112  # EXIF tag; `_UPRIGHT` undoes each of its values
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Item:
    """Image of a set: its id (stable across machines) and its class index, if it has one."""

    id: str
    label: int | None = None


class ImageSet(Protocol):
    """Images in a fixed order; `read` returns encoded files, so that they are hashed and decoded once."""

    @property
    def name(self) -> str:
        """Name of the set, for tables: "cifar10-2500/val"."""

    @property
    def items(self) -> Sequence[Item]:
        """Images in order."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels; None for unlabelled images."""

    def read(self, index: int) -> bytes:
        """Return the encoded image file of `items[index]`; raises OSError if it cannot be read."""


class BadImage(Exception):
    """Image that cannot be used; the text is the reason."""


def _upright(image: Image.Image, source: Image.Image) -> Image.Image:
    """Turn `image`, made from `source`, upright by the EXIF orientation of `source`."""
    try:
        orientation = source.getexif().get(_ORIENTATION)
    except Exception:  # Pillow raises many types on damaged EXIF data, while the pixels may be intact
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _reduced(image: Image.Image) -> Image.Image:
    """Decode an image with at most `_KEPT` pixels, one band at a time, so that no second full copy is in memory."""
    image.draft(None, (image.width // 2, image.height // 2))  # does nothing unless JPEG
    image.load()
    factor = math.ceil(math.sqrt(image.width * image.height / _KEPT))
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    # Bands are a multiple of `factor` high, so that no block of the mean is cut.
    rows = factor * max(1, _KEPT // 4 // image.width // factor)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        small.paste(_rgb(band).reduce(factor), (0, top // factor))
    return small


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise BadImage(f"pixels of mode {image.mode} have no range of their own to be shown in")
    if image.mode.startswith("I;16"):  # Pillow's own conversion turns every value above 255 white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # a copy would double the memory


def pixels_in(data: bytes) -> int:
    """Return the number of pixels in the header of an image file; 0 if it has none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # `decode` reports it
        return 0


def decode(data: bytes, *, reduced: bool = False) -> Image.Image:
    """Decode an image file to RGB, upright.

    Args:
        data: The file.
        reduced: Whether an image of more than 20 Mpx may be returned with 2 to 4 Mpx: JPEG is decoded at half its
            size, and blocks of pixels are replaced by their mean.

    Raises:
        BadImage: If the file is damaged, truncated, of an unknown format, larger than 64 Mpx or more than 200 times
            as long as wide (checked in the header, before any pixel is decoded).
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage(f"{width}x{height} is more than {MAX_PIXELS // 1_000_000} Mpx")
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise BadImage(f"{width}x{height} is more than {MAX_ASPECT} times as long as wide")
            if reduced and width * height > LARGE:
                small = _upright(_reduced(image), image)
                image.close()  # now: it can be in a cycle, and other threads wait for its memory
                return small
            image.load()
            return _upright(_rgb(image), image)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(unreadable(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, higher limits
        raise BadImage(f"more than {MAX_PIXELS // 1_000_000} Mpx") from error
    except Exception as error:  # Pillow raises many types on damaged files, SyntaxError and struct.error among them
        raise BadImage(f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error


PREFIX = "data:image/jpeg;base64,"


def thumbnail(images: ImageSet, row: int, side: int = 96) -> str | None:
    """Return image `row` as a data URI, its longer side at most `side` pixels; None if it cannot be read any more."""
    try:
        image = decode(images.read(row), reduced=True)
    except (OSError, BadImage):
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return PREFIX + base64.b64encode(data.getvalue()).decode()
