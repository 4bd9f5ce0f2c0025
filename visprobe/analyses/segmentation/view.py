"""Part of an image that the grid of patch tokens shows, found by sending ramps through the image processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

UNCOUNTED = 65535  # label of uncounted pixels in windows
_LEAST = 32  # pixels of a ramp's shorter side


class Box(NamedTuple):
    """Edges in pixels of an image, right and bottom exclusive; beyond the image where the view is padded."""

    left: int
    top: int
    right: int
    bottom: int


class View:
    """View of images through one encoder's processor: squashed, cropped or padded, whatever its fields are called.

    Args:
        encoder: Encoder whose images have one grid.
    """

    def __init__(self, encoder: VisionEncoder) -> None:
        assert encoder.grid is not None  # the analysis asks for a fixed grid
        self.grid: Grid = encoder.grid
        self.key = (encoder.processor_hash, *encoder.pixel_kind)
        self._encoder = encoder
        self._boxes: dict[tuple[int, int], Box] = {}

    def box(self, width: int, height: int) -> Box:
        """Return the part of an image of this size that the patch tokens cover.

        Raises:
            DataError: If the processor's output is no picture to follow ramps through.
        """
        if (width, height) not in self._boxes:
            self._boxes[width, height] = self._found(width, height)
        return self._boxes[width, height]

    def _found(self, width: int, height: int) -> Box:
        scale = -(-_LEAST // min(width, height))
        seen, inside = self._ramps(width * scale, height * scale)
        # A line through the ramp's mean values gives, for each edge of the grid, its place in the image as a share.
        ends = []
        for axis, cells in ((1, self.grid[1]), (0, self.grid[0])):
            ramp, rows = seen[..., 1 - axis], inside.any(1 - axis)
            means = (ramp * inside).sum(1 - axis)[rows] / inside.sum(1 - axis)[rows]
            places = np.flatnonzero(rows) + 0.5
            clear = (means > 8) & (means < 247)  # resampling bends the ends of a ramp
            kept = clear if clear.sum() >= 2 else np.ones(len(means), bool)
            slope, start = np.polyfit(places[kept], means[kept] / 255, 1)
            ends.append((start, start + slope * cells * self._patch(inside.shape[axis], cells)))
        (left, right), (top, bottom) = ends
        return Box(round(left * width), round(top * height), round(right * width), round(bottom * height))

    def _ramps(self, width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return ramps across and down as the tower gets them, in [0, 255], (H, W, 2); and a mask of the image."""
        ramp = np.zeros((height, width, 3), np.uint8)
        ramp[..., 0] = np.round(255 * (np.arange(width) + 0.5) / width)
        ramp[..., 1] = np.round(255 * (np.arange(height) + 0.5) / height)[:, None]
        pictures = [Image.new("RGB", (width, height), (grey,) * 3) for grey in (0, 255)]
        values = self._encoder.preprocess([*pictures, Image.fromarray(ramp)]).inputs.get("pixel_values")
        if values is None or values.ndim < 4 or values.shape[-3] != 3:
            raise DataError(
                f"{self._encoder.name}: its processor does not give pictures, so masks cannot be laid on its patches",
                hint="Leave segmentation out for this tower.",
            )
        # Black and white images undo the normalisation of each channel, and show where padding is.
        black, white, shown = values.reshape(3, -1, *values.shape[-3:])[:, 0].double().numpy()
        inside = (white - black)[0] > 0.5 * (white - black)[0].max()
        span = np.where(inside, white - black, 1)
        return np.moveaxis(255 * (shown - black) / span, 0, -1)[..., :2], inside

    def _patch(self, pixels: int, cells: int) -> float:
        """Return the pixels per patch; a side that patches do not fill is left over at the end."""
        size = getattr(self._encoder.config, "patch_size", None)
        patch = size if isinstance(size, int) else size[0] if size else 0
        return patch if 0 <= pixels - cells * patch < patch else pixels / cells


def window(
    mask: NDArray[np.int64], box: Box, uncounted: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> NDArray[np.uint16]:
    """Cut the part of a mask in `box`, with `UNCOUNTED` where pixels do not count or there is no image.

    Args:
        mask: Class of each pixel, shape (H, W).
        box: Edges from `View.box` for an image of that size.
        uncounted: Returns True for labels that do not count.
    """
    height, width = box.bottom - box.top, box.right - box.left
    shown = np.full((height, width), UNCOUNTED, np.uint16)
    top, left = max(box.top, 0), max(box.left, 0)
    part = mask[top : box.bottom, left : box.right]
    place = np.s_[top - box.top :, left - box.left :]
    shown[place][: part.shape[0], : part.shape[1]] = np.where(uncounted(part), UNCOUNTED, part)
    return shown


def not_smaller(mask: NDArray[np.uint16], grid: Grid) -> NDArray[np.uint16]:
    """Repeat the pixels of `mask` until no side has fewer pixels than patches."""
    factor = max(1, *(-(-cells // max(size, 1)) for cells, size in zip(grid, mask.shape, strict=True)))
    return mask.repeat(factor, 0).repeat(factor, 1) if factor > 1 else mask


def grid_of(tokens: int, grid: Grid) -> Grid | None:
    """Return rows and columns of `tokens` that a connector made of the patches of `grid`; None if there are none."""
    whole = grid[0] * grid[1]
    rows = grid[0] if tokens == whole else max(1, round(grid[0] * (tokens / whole) ** 0.5))
    columns = tokens // rows
    proportional = abs(columns * grid[0] - rows * grid[1]) <= max(grid)  # less than one row or column off
    return (rows, columns) if rows * columns == tokens and proportional else None
