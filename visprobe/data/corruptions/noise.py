"""Noise, in the operations and constants of ImageNet-C."""

from __future__ import annotations

import numpy as np

from visprobe.data.corruptions.frame import Pixels

_SPREAD = (0.08, 0.12, 0.18, 0.26, 0.38)
_PHOTONS = (60, 25, 12, 5, 3)
_SHARE = (0.03, 0.06, 0.09, 0.17, 0.27)


def gaussian_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """A normal number of its own is added to every channel of every pixel."""
    return pixels + np.float32(_SPREAD[severity - 1]) * rng.standard_normal(pixels.shape, np.float32)


def shot_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Every channel of every pixel counts few photons."""
    photons = _PHOTONS[severity - 1]
    return (rng.poisson(pixels * photons) / photons).astype(np.float32)


def impulse_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Channels of pixels become black or white."""
    hit = rng.random(pixels.shape, np.float32) < _SHARE[severity - 1]
    return np.where(hit, rng.integers(0, 2, pixels.shape), pixels).astype(np.float32)
