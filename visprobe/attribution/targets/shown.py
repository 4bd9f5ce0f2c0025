"""Cropping of a picture to the part that a tower sees, so that a map can be laid over it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from visprobe.attribution.evidence.regions import Region, patch_means
from visprobe.encoders.encoder import VisionEncoder

_LEVELS = 255
_WHOLE = 0.98  # of a patch, less what resampling takes at the edge of a picture


def as_shown(picture: Image.Image, encoder: VisionEncoder) -> Image.Image:
    """Crop or pad a picture (in black) to the part that a map of `encoder` covers.

    The part is found by preprocessing a white picture, which tells padding, and two whose grey values are their
    coordinates, so that edges are exact to about 1/250 of the picture's sides.

    Args:
        picture: RGB image.
        encoder: Encoder whose processor crops, pads and resizes.

    Returns:
        RGB image of the same scale; the picture itself if nothing is cropped or padded.
    """
    width, height = picture.size
    covered = patch_means(Image.new("RGB", picture.size, (_LEVELS,) * 3), encoder)
    columns = _line(_coordinate(width, height, 1, encoder) * width, covered)
    rows = _line(_coordinate(width, height, 0, encoder).T * height, covered.T)
    # A picture thinner than two patches is a strip inside its padding, at the scale of the other axis.
    columns, rows = columns or _strip(rows, covered, width), rows or _strip(columns, covered.T, height)
    if columns is None or rows is None:  # a single patch, or a picture of a few pixels
        return picture
    box = [round(edge) for line in zip(columns.edges, rows.edges, strict=True) for edge in line]
    box = [box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)]
    near = max(width, height) / _LEVELS
    if all(abs(edge - whole) <= near for edge, whole in zip(box, (0, 0, width, height), strict=True)):
        return picture
    return picture.crop((box[0], box[1], box[2], box[3]))


class _Line(NamedTuple):
    """Adjacent patches of one size along one axis of the picture, in pixels."""

    first: float  # centre of the first patch
    size: float
    patches: int

    @property
    def edges(self) -> tuple[float, float]:
        return self.first - self.size / 2, self.first + (self.patches - 0.5) * self.size


def _coordinate(width: int, height: int, axis: int, encoder: VisionEncoder) -> Region:
    """Return the position of each patch on one axis, as a share of the picture's side, shape (rows, columns)."""
    ramp = (np.arange((height, width)[axis]) + 0.5) / (height, width)[axis] * _LEVELS
    grey = np.broadcast_to(ramp[:, None] if axis == 0 else ramp[None], (height, width))
    return patch_means(Image.fromarray(np.round(grey).astype(np.uint8)).convert("RGB"), encoder)


def _line(centres: Region, covered: Region) -> _Line | None:
    """Find the patches along one axis from the columns of patches that the picture fills from side to side.

    Args:
        centres: Position on that axis, averaged over each patch, in pixels; padding counts as 0.
        covered: Share of each patch that is picture.

    Returns:
        None if fewer than two columns are filled.
    """
    highest = covered.max()
    if highest <= _WHOLE and covered.any(0).sum() <= covered.any(1).sum():
        return None
    at = np.flatnonzero(covered.max(0) > _WHOLE * highest)
    if len(at) < 2:
        return None
    means = centres.sum(0)[at] / covered.sum(0)[at]
    # Medians, because resampling bends the coordinates at the edges of the picture.
    size = float(np.median(np.diff(means) / np.diff(at)))
    return _Line(float(np.median(means - size * at)), size, centres.shape[1]) if size > 0 else None


def _strip(other: _Line | None, covered: Region, side: int) -> _Line | None:
    """Place a strip that is thinner than two patches by the centre of what is covered, with the other axis' scale."""
    if other is None or not covered.any():
        return None
    middle = float((covered.sum(0) * np.arange(covered.shape[1])).sum() / covered.sum())
    return _Line(side / 2 - middle * other.size, other.size, covered.shape[1])
