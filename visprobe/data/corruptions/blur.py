"""Blur, in the operations and constants of ImageNet-C."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from scipy import fft
from scipy.ndimage import gaussian_filter

from visprobe.data.corruptions.frame import Pixels, Plane, resized, unit

_RADIUS = (3, 4, 6, 8, 10)
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, reach, rounds
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # length, sigma
_ZOOM = ((0.10, 11), (0.15, 16), (0.20, 11), (0.25, 13), (0.30, 11))  # furthest, pictures
_FINE = 5  # samples per pixel along which the edge of a disk is averaged


def defocus_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Every point becomes a disk."""
    return convolved(pixels, _disk(_RADIUS[severity - 1] * unit(pixels)))


def glass_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Every pixel takes the place of one nearby, between two light blurs."""
    sigma, reach, rounds = _GLASS[severity - 1]
    blurred, most = _smooth(pixels, sigma), round(reach * unit(pixels))
    rows, columns = np.indices(pixels.shape[:2])
    for _ in range(rounds):
        y, x = rng.integers(-most, most, (2, *pixels.shape[:2]), endpoint=True)
        from_row = np.clip(rows + y, 0, pixels.shape[0] - 1)
        from_column = np.clip(columns + x, 0, pixels.shape[1] - 1)
        blurred = blurred[from_row, from_column]
    return _smooth(blurred, sigma)


def motion_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Every point leaves a fading trail to one side, within 45 degrees of the horizontal."""
    length, sigma = _MOTION[severity - 1]
    return convolved(pixels, trail(length * unit(pixels), sigma * unit(pixels), rng.uniform(-45, 45)))


def zoom_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """The mean of the picture and of pictures zoomed further and further into its centre."""
    furthest, count = _ZOOM[severity - 1]
    total = pixels.copy()
    for factor in 1 + np.linspace(0, furthest, count):
        total += _zoomed(pixels, float(factor))
    return total / np.float32(count + 1)


def trail(length: float, sigma: float, degrees: float) -> Plane:
    """Kernel of half a normal curve along a line from its centre, shape (2 r + 1, 2 r + 1), summing to 1."""
    radius = math.ceil(length) + 1
    steps = np.linspace(0, length, 2 * radius)
    weights, angle = np.exp(-(steps**2) / (2 * sigma**2)), math.radians(degrees)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    y, x = radius + steps * math.sin(angle), radius + steps * math.cos(angle)
    for down in (0, 1):  # each sample is shared by the four pixels around it
        for right in (0, 1):
            near = np.abs(1 - down - y % 1) * np.abs(1 - right - x % 1)
            np.add.at(kernel, (y.astype(int) + down, x.astype(int) + right), weights * near)
    return np.asarray(kernel / kernel.sum(), np.float32)


def convolved(pixels: Pixels, kernel: Plane) -> Pixels:
    """Every channel convolved with a kernel of odd sides; beyond its edges a picture is mirrored."""
    radius = kernel.shape[0] // 2
    padded = np.pad(pixels, ((radius, radius), (radius, radius), (0, 0)), "symmetric")
    shape = [fft.next_fast_len(side + 2 * radius, real=True) for side in padded.shape[:2]]
    spectrum = fft.rfft2(padded, shape, axes=(0, 1)) * fft.rfft2(kernel, shape)[..., None]
    whole = fft.irfft2(spectrum, shape, axes=(0, 1))
    height, width = pixels.shape[:2]
    return np.asarray(whole[2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width], np.float32)


def _disk(radius: float) -> Plane:
    side = 2 * math.ceil(radius) + 1
    axis = (np.arange(side * _FINE) + 0.5) / _FINE - side / 2
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float32)
    kernel = inside.reshape(side, _FINE, side, _FINE).mean((1, 3))
    return np.asarray(kernel / kernel.sum(), np.float32)


def _smooth(pixels: Pixels, sigma: float) -> Pixels:
    width = sigma * unit(pixels)
    return np.asarray(gaussian_filter(pixels, (width, width, 0)), np.float32)


def _zoomed(pixels: Pixels, factor: float) -> Pixels:
    height, width = pixels.shape[:2]
    left, top = width * (1 - 1 / factor) / 2, height * (1 - 1 / factor) / 2
    box = (left, top, width - left, height - top)
    planes = [resized(pixels[..., c], (height, width), Image.Resampling.BILINEAR, box) for c in range(3)]
    return np.stack(planes, axis=-1)
