"""Corruptions of images after ImageNet-C: noise, blur, weather and compression."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft
from scipy.ndimage import gaussian_filter, map_coordinates

from visprobe.data.crops import Changed
from visprobe.data.image_set import ImageSet
from visprobe.errors import UsageError

Pixels = NDArray[np.float32]  # (height, width, 3), in [0, 1]
Plane = NDArray[np.float32]  # (height, width)

REFERENCE = 224  # pixels on the shorter side for which the constants were published


def unit(pixels: Pixels) -> float:
    """Return how many pixels of the image one published pixel is."""
    height, width = pixels.shape[:2]
    return float(min(height, width) / REFERENCE)


def resized(
    plane: NDArray[np.floating],
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float] | None = None,
) -> Plane:
    """Resize a plane, or its box (left, top, right, bottom), to a size (height, width)."""
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), resample, box), np.float32)


def channels(pixels: Pixels, size: tuple[int, int], resample: Image.Resampling) -> Pixels:
    """Resize all channels to a size (height, width)."""
    return np.stack([resized(pixels[..., c], size, resample) for c in range(3)], axis=-1)


def by_area(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize by the mean over the area of a new pixel; enlarging repeats pixels."""
    return channels(pixels, size, Image.Resampling.BOX)


def own(pixels: Pixels) -> Pixels:
    """Return the image unchanged, for corruptions that do not depend on neighbours."""
    return pixels


def reference(pixels: Pixels) -> Pixels:
    """Resize to 224 pixels on the shorter side, for corruptions that add grains of a published pixel's size."""
    if min(pixels.shape[:2]) > REFERENCE:
        return by_area(pixels, _reference_size(pixels))
    return at_least_reference(pixels)


def at_least_reference(pixels: Pixels) -> Pixels:
    """Enlarge to 224 pixels on the shorter side if smaller, for corruptions that move pixels by published distances."""
    if min(pixels.shape[:2]) >= REFERENCE:
        return pixels
    return channels(pixels, _reference_size(pixels), Image.Resampling.BICUBIC).clip(0, 1)


def _reference_size(pixels: Pixels) -> tuple[int, int]:
    height, width = (max(1, round(side / unit(pixels))) for side in pixels.shape[:2])
    return height, width


_RADIUS = (3, 4, 6, 8, 10)
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, reach, rounds
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # length, sigma
_ZOOM = ((0.10, 11), (0.15, 16), (0.20, 11), (0.25, 13), (0.30, 11))  # largest zoom, number of images
_FINE = 5  # samples per pixel and axis for the antialiased edge of a disk


def defocus_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Blur every point to a disk."""
    return convolved(pixels, _disk(_RADIUS[severity - 1] * unit(pixels)))


def glass_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Replace every pixel by a random one nearby, between two light blurs."""
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
    """Smear every point to one side in a fading trail, within 45 degrees of the horizontal."""
    length, sigma = _MOTION[severity - 1]
    return convolved(pixels, trail(length * unit(pixels), sigma * unit(pixels), rng.uniform(-45, 45)))


def zoom_blur(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Average the image with images zoomed further and further into its centre."""
    furthest, count = _ZOOM[severity - 1]
    total = pixels.copy()
    for factor in 1 + np.linspace(0, furthest, count):
        total += _zoomed(pixels, float(factor))
    return total / np.float32(count + 1)


def trail(length: float, sigma: float, degrees: float) -> Plane:
    """Make a kernel of half a normal curve along a line from its centre, shape (2 r + 1, 2 r + 1), sum 1."""
    radius = math.ceil(length) + 1
    steps = np.linspace(0, length, 2 * radius)
    weights, angle = np.exp(-(steps**2) / (2 * sigma**2)), math.radians(degrees)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    y, x = radius + steps * math.sin(angle), radius + steps * math.cos(angle)
    for down in (0, 1):  # bilinear: each sample is shared by the four pixels around it
        for right in (0, 1):
            near = np.abs(1 - down - y % 1) * np.abs(1 - right - x % 1)
            np.add.at(kernel, (y.astype(int) + down, x.astype(int) + right), weights * near)
    return np.asarray(kernel / kernel.sum(), np.float32)


def convolved(pixels: Pixels, kernel: Plane) -> Pixels:
    """Convolve every channel with a kernel of odd sides, mirroring the image at its edges."""
    radius = kernel.shape[0] // 2
    padded = np.pad(pixels, ((radius, radius), (radius, radius), (0, 0)), "symmetric")
    # FFT: its time hardly depends on the kernel, whose radius grows with the image.
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


_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_DISTANCE = (0.4, 0.6, 0.8, 1.1, 2.0)  # standard deviation of the displacement, in published pixels
_SMOOTHNESS = 2.44  # sigma of the field of displacements, in published pixels
_BLOCKS = (0.6, 0.5, 0.4, 0.3, 0.25)
_QUALITY = (25, 18, 15, 10, 7)


def contrast(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Move every channel towards its mean over the image."""
    mean = pixels.mean((0, 1), keepdims=True)
    return np.asarray((pixels - mean) * np.float32(_CONTRAST[severity - 1]) + mean, np.float32)


def elastic_transform(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Displace every pixel by a smooth random field."""
    field = rng.standard_normal((2, *pixels.shape[:2]), np.float32)
    field = np.stack([gaussian_filter(part, _SMOOTHNESS * unit(pixels), mode="reflect") for part in field])
    field *= _DISTANCE[severity - 1] * unit(pixels) / field.std()
    places = np.indices(pixels.shape[:2]) + field
    moved = [map_coordinates(pixels[..., c], places, order=1, mode="reflect") for c in range(3)]
    return np.stack(moved, axis=-1)


def pixelate(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Replace blocks of pixels by their mean."""
    height, width = (max(1, round(side / unit(pixels) * _BLOCKS[severity - 1])) for side in pixels.shape[:2])
    return by_area(by_area(pixels, (height, width)), (pixels.shape[0], pixels.shape[1]))


def jpeg_compression(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Encode as JPEG of low quality and decode again."""
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY[severity - 1])
    return (np.asarray(Image.open(buffer)) / 255).astype(np.float32)


_SPREAD = (0.08, 0.12, 0.18, 0.26, 0.38)
_PHOTONS = (60, 25, 12, 5, 3)
_SHARE = (0.03, 0.06, 0.09, 0.17, 0.27)


def gaussian_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Add independent normal noise to every channel of every pixel."""
    return pixels + np.float32(_SPREAD[severity - 1]) * rng.standard_normal(pixels.shape, np.float32)


def shot_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Replace every channel of every pixel by a count of few photons."""
    photons = _PHOTONS[severity - 1]
    return (rng.poisson(pixels * photons) / photons).astype(np.float32)


def impulse_noise(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Turn random channels of pixels black or white."""
    hit = rng.random(pixels.shape, np.float32) < _SHARE[severity - 1]
    return np.where(hit, rng.integers(0, 2, pixels.shape), pixels).astype(np.float32)


# Mean and spread of flakes, their size, threshold below which there is none, length and sigma of their fall, share of
# the image that stays.
_SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
_FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # thickness, ratio of amplitudes between octaves
_BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)
_OCTAVES = 7
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def snow(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Add streaks of white to a paler image."""
    mean, spread, size, least, length, sigma, passing = _SNOW[severity - 1]
    height, width = pixels.shape[:2]
    coarse = max(1, round(height / size)), max(1, round(width / size))
    flakes = resized(rng.normal(mean, spread, coarse), (height, width), Image.Resampling.BILINEAR)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)[..., None].repeat(3, axis=2).astype(np.float32)
    falling = convolved(flakes, trail(length * unit(pixels), sigma * unit(pixels), rng.uniform(-135, -45)))
    pale = np.maximum(pixels, (pixels @ _LUMA)[..., None] * 1.5 + 0.5)
    return np.asarray(passing * pixels + (1 - passing) * pale + falling + falling[::-1, ::-1], np.float32)


def fog(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Add clouds, and darken the whole to the image's former range."""
    thickness, smoothness = _FOG[severity - 1]
    brightest = pixels.max()
    clouds = _clouds(pixels.shape[0], pixels.shape[1], smoothness, rng)[..., None]
    return np.asarray((pixels + thickness * clouds) * (brightest / (brightest + thickness)), np.float32)


def brightness(pixels: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    """Add a constant to the value channel of HSV."""
    value = pixels.max(-1, keepdims=True)
    brighter = np.minimum(value + np.float32(_BRIGHTER[severity - 1]), 1)
    shown = np.where(value > 0, pixels * brighter / np.maximum(value, 1e-6), brighter)
    return np.asarray(shown, np.float32)


def _clouds(height: int, width: int, smoothness: float, rng: np.random.Generator) -> Plane:
    """Sum random numbers on finer and finer grids, each weaker by the factor `smoothness`, scaled to [0, 1]."""
    total = np.zeros((height, width), np.float32)
    for octave in range(1, _OCTAVES + 1):
        grid = rng.uniform(-1, 1, (2**octave + 1, 2**octave + 1)) / smoothness**octave
        total += resized(grid, (height, width), Image.Resampling.BICUBIC)
    total -= total.min()
    return np.asarray(total / total.max(), np.float32)


SEVERITIES = (1, 2, 3, 4, 5)
_MOST = 4 * REFERENCE  # pixels on the shorter side; encoders see no more, and blurs of larger images take seconds


class Corruption(NamedTuple):
    """Operation on an image with values in [0, 1] at a severity, and the frame that sets its size."""

    operation: Callable[[Pixels, int, np.random.Generator], Pixels]
    frame: Callable[[Pixels], Pixels]


# Groups and order of ImageNet-C.
CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, reference),
    "shot_noise": Corruption(shot_noise, reference),
    "impulse_noise": Corruption(impulse_noise, reference),
    "defocus_blur": Corruption(defocus_blur, at_least_reference),
    "glass_blur": Corruption(glass_blur, at_least_reference),
    "motion_blur": Corruption(motion_blur, at_least_reference),
    "zoom_blur": Corruption(zoom_blur, at_least_reference),
    "snow": Corruption(snow, reference),
    "fog": Corruption(fog, reference),
    "brightness": Corruption(brightness, own),
    "contrast": Corruption(contrast, own),
    "elastic_transform": Corruption(elastic_transform, at_least_reference),
    "pixelate": Corruption(pixelate, at_least_reference),
    "jpeg_compression": Corruption(jpeg_compression, reference),
}


def corrupt(image: NDArray[np.uint8], kind: str, severity: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a corrupted copy of an image, of the same size.

    Args:
        image: uint8 of shape (height, width, 3), RGB.
        kind: A key of `CORRUPTIONS`.
        severity: 1 to 5.
        rng: Random number generator.

    Returns:
        uint8 of the same shape.

    Raises:
        UsageError: If kind or severity is unknown.

    Source:
        Hendrycks & Dietterich 2019 (1903.12261), section 3 and appendix.
    Differs from source:
        Written anew, for pictures of any size: distances and grains are parts of the shorter side. What a
        corruption changes at 224 pixels or more is brought back to the picture's own size and added there
        (`analyses/robustness/card.md` lists the differences of each).
    """
    check_corruptions([kind], [severity])
    operation, frame = CORRUPTIONS[kind]
    pixels = (image / 255).astype(np.float32)
    framed = frame(pixels)
    # Only the change is resized and added, so that detail beyond the resolution of the frame survives.
    change = operation(framed, severity, rng).clip(0, 1) - framed
    if change.shape != pixels.shape:
        change = by_area(change, (pixels.shape[0], pixels.shape[1]))
    return ((pixels + change).clip(0, 1) * 255).round().astype(np.uint8)


class Corrupted(Changed):
    """Corrupted copies of images; their randomness depends on the seed and the image's own content alone.

    Args:
        images: Images to corrupt.
        kind: A key of `CORRUPTIONS`.
        severity: 1 to 5; the severities of one image share their random numbers.
        seed: Seed of the random numbers.

    Raises:
        UsageError: If kind or severity is unknown.
    """

    def __init__(self, images: ImageSet, kind: str, severity: int, seed: int = 0) -> None:
        check_corruptions([kind], [severity])
        super().__init__(images, f"{kind} {severity}")
        self._kind, self._severity, self._seed = kind, severity, seed

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """Return `image` corrupted; a shorter side of more than 896 pixels is reduced to that first."""
        if (shorter := min(image.size)) > _MOST:
            width, height = (round(side * _MOST / shorter) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BOX)
        content = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
        rng = np.random.default_rng((self._seed, [*CORRUPTIONS].index(self._kind), content))
        return Image.fromarray(corrupt(np.asarray(image), self._kind, self._severity, rng))


def check_corruptions(kinds: Sequence[str], severities: Sequence[int]) -> None:
    """Refuse unknown corruptions and severities.

    Raises:
        UsageError: If a kind or a severity is unknown; the message names all of them.
    """
    if unknown := [kind for kind in kinds if kind not in CORRUPTIONS]:
        raise UsageError(
            f"there is no corruption {', '.join(map(repr, unknown))}", hint=f"There are {', '.join(CORRUPTIONS)}."
        )
    if outside := [severity for severity in severities if severity not in SEVERITIES]:
        raise UsageError(
            f"there is no severity {', '.join(map(str, outside))}", hint="Severities are whole numbers from 1 to 5."
        )
