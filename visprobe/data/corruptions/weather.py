"""Weather, after the operations and constants of ImageNet-C: snow, fog and brightness. Frost needs photographs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from visprobe.data.corruptions.blur import convolved, trail
from visprobe.data.corruptions.frame import Pixels, Plane, resized, unit

# Mean and spread of the flakes, their size, what is no flake, length and sigma of their fall, light that passes.
_SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
_FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # thickness, how much smoother coarse is than fine
_BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)
_OCTAVES = 7
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def snow(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Streaks of white over a picture that is paler."""
    mean, spread, size, least, length, sigma, passing = _SNOW[severity - 1]
    height, width = pixels.shape[:2]
    coarse = max(1, round(height / size)), max(1, round(width / size))
    flakes = resized(rng.normal(mean, spread, coarse), (height, width), Image.Resampling.BILINEAR)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)[..., None].repeat(3, axis=2).astype(np.float32)
    falling = convolved(flakes, trail(length * unit(pixels), sigma * unit(pixels), rng.uniform(-135, -45)))
    pale = np.maximum(pixels, (pixels @ _LUMA)[..., None] * 1.5 + 0.5)
    return np.asarray(passing * pixels + (1 - passing) * pale + falling + falling[::-1, ::-1], np.float32)


def fog(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Clouds are added, and the whole darkened to the range the picture had."""
    thickness, smoothness = _FOG[severity - 1]
    brightest = pixels.max()
    clouds = _clouds(pixels.shape[0], pixels.shape[1], smoothness, rng)[..., None]
    return np.asarray((pixels + thickness * clouds) * (brightest / (brightest + thickness)), np.float32)


def brightness(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """A constant is added to the value of hue, saturation and value."""
    value = pixels.max(-1, keepdims=True)
    brighter = np.minimum(value + np.float32(_BRIGHTER[severity - 1]), 1)
    shown = np.where(value > 0, pixels * brighter / np.maximum(value, 1e-6), brighter)
    return np.asarray(shown, np.float32)


def _clouds(height: int, width: int, smoothness: float, rng: np.random.Generator) -> Plane:
    """Random numbers on finer and finer grids, each weaker than the one before by `smoothness`, from 0 to 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(1, _OCTAVES + 1):
        grid = rng.uniform(-1, 1, (2**octave + 1, 2**octave + 1)) / smoothness**octave
        total += resized(grid, (height, width), Image.Resampling.BICUBIC)
    total -= total.min()
    return np.asarray(total / total.max(), np.float32)
