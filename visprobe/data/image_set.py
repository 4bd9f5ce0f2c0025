"""A set of images: what can be listed, read and decoded, with damage counted instead of hidden."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from visprobe.data.formats import FORMATS, unreadable

MAX_PIXELS = 64_000_000
MAX_ASPECT = 200  # processors that set the shorter side would make gigabytes of a longer strip
_ORIENTATION = 0x0112  # EXIF tag, and what makes an image of each of its values upright
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
    """One image of a set: its id (stable across machines) and its class index, if it has one."""

    id: str
    label: int | None = None


class ImageSet(Protocol):
    """Images in a fixed order. `read` gives the encoded file, so that it can be hashed and decoded once."""

    @property
    def name(self) -> str:
        """Name of the set, for tables: "cifar10-2500/val"."""

    @property
    def items(self) -> Sequence[Item]:
        """The images in order."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the order of the labels, or None for unlabelled images."""

    def read(self, index: int) -> bytes:
        """The encoded image file of `items[index]`; raises OSError if it cannot be read."""


class BadImage(Exception):
    """An image that cannot be used; the text is the reason."""


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Pillow raises many types on damaged EXIF data, beside which the pixels are whole
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise BadImage(f"pixels of mode {image.mode} have no range of their own to be shown in")
    if image.mode.startswith("I;16"):  # Pillow's own conversion turns every value above 255 white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def decode(data: bytes) -> Image.Image:
    """Decode an image file to RGB, upright.

    Raises:
        BadImage: If the file is damaged, truncated, of an unknown format, larger than 64 Mpx or
            longer than 200 times its width (checked in the header, before any pixel is decoded).
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage(f"{width}x{height} is more than {MAX_PIXELS // 1_000_000} Mpx")
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise BadImage(f"{width}x{height} is more than {MAX_ASPECT} times as long as wide")
            image.load()
            return _rgb(_upright(image))
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(unreadable(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, higher, limits
        raise BadImage(f"more than {MAX_PIXELS // 1_000_000} Mpx") from error
    except Exception as error:  # Pillow raises many types on damaged files, SyntaxError and struct.error among them
        raise BadImage(f"{type(error).__name__}: {error}".splitlines()[0][:200]) from error
