"""The part of a picture that a tower sees, so that a map can be laid over it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from visprobe.attribution.evidence.regions import Region, patch_means
from visprobe.encoders.encoder import VisionEncoder

_LEVELS = 255


def as_shown(picture: Image.Image, encoder: VisionEncoder) -> Image.Image:
    """What a map of `encoder` covers: the picture without what its processor crops away, with padding in black.

    The processor is asked where it shows what: it gets two pictures of the same size whose grey values are the
    coordinates. So the edges are exact to about a 250th of the picture's sides.

    Args:
        picture: RGB image.
        encoder: Whose processor shows it.

    Returns:
        RGB image of the same scale; the picture itself if nothing is cropped or padded.
    """
    width, height = picture.size
    left, right = _edges(_coordinate(width, height, 1, encoder).mean(0) * width)
    top, bottom = _edges(_coordinate(width, height, 0, encoder).mean(1) * height)
    box = (round(left), round(top), max(round(right), round(left) + 1), max(round(bottom), round(top) + 1))
    near = max(width, height) / _LEVELS
    if all(abs(edge - whole) <= near for edge, whole in zip(box, (0, 0, width, height), strict=True)):
        return picture
    return picture.crop(box)


def _coordinate(width: int, height: int, axis: int, encoder: VisionEncoder) -> Region:
    """Where on one axis the patches lie, as shares of the picture's side, shape (rows, columns)."""
    ramp = (np.arange((height, width)[axis]) + 0.5) / (height, width)[axis] * _LEVELS
    grey = np.broadcast_to(ramp[:, None] if axis == 0 else ramp[None], (height, width))
    return patch_means(Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB"), encoder)


def _edges(centres: Region) -> tuple[float, float]:
    """First and last edge of neighbouring patches of one size, from where their middles are."""
    if len(centres) == 1:
        return 0.0, 2 * float(centres[0])
    half = float(np.median(np.diff(centres))) / 2
    middle = float(np.median(centres - 2 * half * np.arange(len(centres))))
    return middle - half, middle + (2 * len(centres) - 1) * half
