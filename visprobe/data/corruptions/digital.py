"""Contrast, distortion and compression, after the operations and constants of ImageNet-C."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from visprobe.data.corruptions.frame import Pixels, by_area, unit

_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_DISTANCE = (0.4, 0.6, 0.8, 1.1, 2.0)  # standard deviation of the displacement, in published pixels
_SMOOTHNESS = 2.44  # sigma of the field of displacements, in published pixels
_BLOCKS = (0.6, 0.5, 0.4, 0.3, 0.25)
_QUALITY = (25, 18, 15, 10, 7)


def contrast(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Every channel is drawn towards its mean over the picture."""
    mean = pixels.mean((0, 1), keepdims=True)
    return np.asarray((pixels - mean) * np.float32(_CONTRAST[severity - 1]) + mean, np.float32)


def elastic_transform(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Every pixel is displaced by a smooth random field."""
    field = rng.standard_normal((2, *pixels.shape[:2]), np.float32)
    field = np.stack([gaussian_filter(part, _SMOOTHNESS * unit(pixels), mode="reflect") for part in field])
    field *= _DISTANCE[severity - 1] * unit(pixels) / field.std()
    places = np.indices(pixels.shape[:2]) + field
    moved = [map_coordinates(pixels[..., c], places, order=1, mode="reflect") for c in range(3)]
    return np.stack(moved, axis=-1)


def pixelate(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Blocks of one colour, their mean."""
    height, width = (max(1, round(side / unit(pixels) * _BLOCKS[severity - 1])) for side in pixels.shape[:2])
    return by_area(by_area(pixels, (height, width)), (pixels.shape[0], pixels.shape[1]))


def jpeg_compression(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Written as a JPEG file of low quality and read again."""
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY[severity - 1])
    return (np.asarray(Image.open(buffer)) / 255).astype(np.float32)
