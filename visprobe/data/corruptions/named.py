"""Images damaged in the ways that cameras, weather and compression damage them, after ImageNet-C."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visprobe.data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from visprobe.data.corruptions.changed import Changed
from visprobe.data.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from visprobe.data.corruptions.frame import REFERENCE, Pixels, at_least_reference, by_area, own, reference
from visprobe.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from visprobe.data.corruptions.weather import brightness, fog, snow
from visprobe.data.image_set import ImageSet
from visprobe.errors import UsageError

SEVERITIES = (1, 2, 3, 4, 5)
_MOST = 4 * REFERENCE  # pixels on the shorter side; of more an encoder sees nothing, and blurs would take seconds


class Corruption(NamedTuple):
    """What is done to a picture of values in [0, 1] at a severity, and at which size."""

    operation: Callable[[Pixels, int, np.random.Generator], Pixels]
    frame: Callable[[Pixels], Pixels]


# In the groups and the order of ImageNet-C.
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
    """A damaged copy of an image, of the same size.

    Args:
        image: uint8 of shape (height, width, 3), RGB.
        kind: A key of `CORRUPTIONS`.
        severity: 1 to 5.
        rng: Source of what is random.

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
    change = operation(framed, severity, rng).clip(0, 1) - framed
    if change.shape != pixels.shape:
        change = by_area(change, (pixels.shape[0], pixels.shape[1]))
    return ((pixels + change).clip(0, 1) * 255).round().astype(np.uint8)


class Corrupted(Changed):
    """Damaged copies of images; what is random in one depends on the seed and its own content alone.

    Args:
        images: What is damaged.
        kind: A key of `CORRUPTIONS`.
        severity: 1 to 5; the severities of one image share their random numbers.
        seed: Seed of what is random.

    Raises:
        UsageError: If kind or severity is unknown.
    """

    def __init__(self, images: ImageSet, kind: str, severity: int, seed: int = 0) -> None:
        check_corruptions([kind], [severity])
        super().__init__(images, f"{kind} {severity}")
        self._kind, self._severity, self._seed = kind, severity, seed

    def change(self, image: Image.Image, data: bytes) -> Image.Image:
        """`image` damaged; of more than 896 pixels on its shorter side, it is reduced to that first."""
        if (shorter := min(image.size)) > _MOST:
            width, height = (round(side * _MOST / shorter) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BOX)
        content = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
        rng = np.random.default_rng((self._seed, [*CORRUPTIONS].index(self._kind), content))
        return Image.fromarray(corrupt(np.asarray(image), self._kind, self._severity, rng))


def check_corruptions(kinds: Sequence[str], severities: Sequence[int]) -> None:
    """Refuse what there is not.

    Raises:
        UsageError: If a kind or a severity is unknown; all unknown ones are said.
    """
    if unknown := [kind for kind in kinds if kind not in CORRUPTIONS]:
        raise UsageError(
            f"there is no corruption {', '.join(map(repr, unknown))}", hint=f"There are {', '.join(CORRUPTIONS)}."
        )
    if outside := [severity for severity in severities if severity not in SEVERITIES]:
        raise UsageError(
            f"there is no severity {', '.join(map(str, outside))}", hint="Severities are whole numbers from 1 to 5."
        )
