"""Cropping of a picture to the part that a tower sees, so that a map can be laid over it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from visprobe.attribution.evidence.regions import Region, patch_means
from visprobe.encoders.encoder import VisionEncoder

_LEVELS = 255


def as_shown(picture: Image.Image, encoder: VisionEncoder) -> Image.Image:
    """Crop or pad a picture (in black) to the part that a map of `encoder` covers.

    The part is found by preprocessing two pictures whose grey values are their coordinates, so that edges are exact to
    about 1/250 of the picture's sides.

    Args:
        picture: RGB image.
        encoder: Encoder whose processor crops, pads and resizes.

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
    """Return the position of each patch on one axis, as a share of the picture's side, shape (rows, columns)."""
    ramp = (np.arange((height, width)[axis]) + 0.5) / (height, width)[axis] * _LEVELS
    grey = np.broadcast_to(ramp[:, None] if axis == 0 else ramp[None], (height, width))
    return patch_means(Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB"), encoder)


def _edges(centres: Region) -> tuple[float, float]:
    """Return the first and last edge of adjacent patches of one size, from their centres."""
    if len(centres) == 1:
        return 0.0, 2 * float(centres[0])
    # Medians, because the centres of patches that show padding are off.
    half = float(np.median(np.diff(centres))) / 2
    middle = float(np.median(centres - 2 * half * np.arange(len(centres))))
    return middle - half, middle + (2 * len(centres) - 1) * half
