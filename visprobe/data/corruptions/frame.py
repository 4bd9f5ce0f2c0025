"""The frame a corruption works in: its published constants hold for pictures of 224 pixels, ours have any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]  # (height, width, 3), in [0, 1]
Plane = NDArray[np.float32]  # (height, width)

REFERENCE = 224  # pixels on the shorter side for which the constants were published


def unit(pixels: Pixels) -> float:
    """How many pixels of the picture one published pixel is."""
    height, width = pixels.shape[:2]
    return float(min(height, width) / REFERENCE)


def resized(
    plane: NDArray[np.floating],
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> Plane:
    """A plane, or the part (left, top, right, bottom) of it, at another size (height, width)."""
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), resample, box), np.float32)


def channels(pixels: Pixels, size: tuple[int, int], resample: Image.Resampling) -> Pixels:
    """All channels at another size (height, width)."""
    return np.stack([resized(pixels[..., c], size, resample) for c in range(3)], axis=-1)


def by_area(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Reduced by the mean over what a new pixel covers; enlarged by repetition."""
    return channels(pixels, size, Image.Resampling.BOX)


def own(pixels: Pixels) -> Pixels:
    """The picture as it is: for what does not depend on neighbours."""
    return pixels


def reference(pixels: Pixels) -> Pixels:
    """The picture at 224 pixels on its shorter side: for what is added to it in grains of a published pixel."""
    if min(pixels.shape[:2]) > REFERENCE:
        return by_area(pixels, _reference_size(pixels))
    return at_least_reference(pixels)


def at_least_reference(pixels: Pixels) -> Pixels:
    """A picture of 224 pixels on its shorter side or more: for what moves pixels by published distances."""
    if min(pixels.shape[:2]) >= REFERENCE:
        return pixels
    return channels(pixels, _reference_size(pixels), Image.Resampling.BICUBIC).clip(0, 1)


def _reference_size(pixels: Pixels) -> tuple[int, int]:
    height, width = (max(1, round(side / unit(pixels))) for side in pixels.shape[:2])
    return height, width
