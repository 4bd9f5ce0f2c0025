"""Built-in image set: scenes of real handwritten digits with known classes, positions and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visprobe.data.image_set import Item
from visprobe.data.labels.annotated import Targets
from visprobe.data.prompts import Prompt
from visprobe.errors import UsageError

Split = Literal["train", "val"]
Floats = NDArray[np.float32]

SIDE = 64
CELLS = ("top-left", "top-right", "bottom-left", "bottom-right")
COLOURS = {
    "red": (235, 50, 45),
    "green": (60, 190, 70),
    "blue": (75, 120, 255),
    "yellow": (250, 220, 60),
    "purple": (205, 80, 235),
    "white": (245, 245, 245),
}
# Smallest and largest side in pixels of each size; the gaps between them make "larger" unambiguous.
SIZES = {"small": (18, 19), "medium": (22, 24), "large": (28, 31)}
_SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True)
class PlacedDigit:
    """Digit in a scene.

    Attributes:
        digit: The digit, 0 to 9.
        colour: Name of its colour, a key of `COLOURS`.
        cell: Quarter of the image, one of `CELLS`.
        box: Left, top, right, bottom of its pixels, right and bottom exclusive.
        size: Side in pixels of the square it was drawn into.
    """

    digit: int
    colour: str
    cell: str
    box: tuple[int, int, int, int]
    size: int


@dataclass(frozen=True)
class Scene:
    """Image with the digits in it and their masks.

    Attributes:
        image: uint8 of shape (64, 64, 3), RGB.
        digits: The digits, the largest first; no two share a digit, a colour or a cell.
        masks: uint8 of shape (64, 64): 0 is background, i + 1 belongs to `digits[i]`.
    """

    image: NDArray[np.uint8]
    digits: tuple[PlacedDigit, ...]
    masks: NDArray[np.uint8]

    @property
    def label(self) -> int:
        """Class of the scene: its largest digit."""
        return self.digits[0].digit

    @property
    def caption(self) -> str:
        """Caption, the largest digit first: "a large red 3 top-left, a small blue 7 bottom-right"."""
        return ", ".join(f"a {_size_name(d.size)} {d.colour} {d.digit} {d.cell}" for d in self.digits)


class DigitScenes:
    """Scenes composed of scikit-learn's 1,797 handwritten digits, with 10 classes.

    They have targets (digits present), masks (digit of each pixel) and one caption each.

    Scene i depends on (split, seed, i) alone. The splits share no handwriting: in each class the first two thirds
    in file order, which is by writer, are for training.

    Args:
        split: "train" or "val".
        size: Number of scenes.
        seed: Seed of the scenes.

    Raises:
        UsageError: If the split is unknown or `size` is negative.
    """

    classes: tuple[str, ...] = tuple(str(digit) for digit in range(10))
    mask_classes: tuple[str, ...] = ("background", *(f"digit_{digit}" for digit in range(10)))
    ignored: int = 255

    def __init__(self, split: Split, size: int, seed: int = 0) -> None:
        if split not in _SPLITS:
            raise UsageError(f"digit scenes have no split {split!r}", hint="Use train or val.")
        if size < 0 or seed < 0:
            raise UsageError(f"digit scenes of size {size}, seed {seed}", hint="Give numbers of at least 0.")
        self.split, self.size, self.seed = split, size, seed

    @property
    def name(self) -> str:
        """Name of the set, for tables: "digits-500-seed0/val"."""
        return f"digits-{self.size}-seed{self.seed}/{self.split}"

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Scenes in order; classes take turns, so every prefix is balanced."""
        return tuple(Item(f"{self.split}-{self.seed}-{i:06d}", i % 10) for i in range(self.size))

    def read(self, index: int) -> bytes:
        """Return scene `index` as a binary PPM file."""
        return b"P6\n%d %d\n255\n" % (SIDE, SIDE) + self.scene(index).image.tobytes()

    def mask(self, index: int) -> NDArray[np.int64]:
        """Return the index into `mask_classes` of every pixel of scene `index`, int64 of shape (64, 64)."""
        scene = self.scene(index)
        return np.array([0, *(placed.digit + 1 for placed in scene.digits)], np.int64)[scene.masks]

    def prompts(self, index: int) -> Sequence[tuple[Prompt, NDArray[np.bool_] | None]]:
        """Return two questions on different digits of a scene (one if it has a lone digit), with the digits' pixels.

        Two questions about one image expose a map that ignores the question. Kinds of questions take turns.
        """
        from visprobe.demo.questions import about_different_digits

        return [(Prompt(q.text, q.answer, q.wrong), region) for q, region in about_different_digits(self, index)][:2]

    @property
    def targets(self) -> Targets:
        """Labels "digit_0" to "digit_9": 1 if the scene holds that digit, else 0."""
        return Targets(self.mask_classes[1:], self._described[0], "labels")

    @property
    def captions(self) -> tuple[tuple[str, ...], ...]:
        """Captions of all scenes, one each; see `Scene.caption`."""
        return self._described[1]

    @cached_property
    def _described(self) -> tuple[NDArray[np.float64], tuple[tuple[str, ...], ...]]:
        """Digits present, float64 of shape (size, 10), and captions; both in one pass, since drawing scenes is slow."""
        present, captions = np.zeros((self.size, 10)), []
        for index in range(self.size):
            scene = self.scene(index)
            present[index, [placed.digit for placed in scene.digits]] = 1
            captions.append((scene.caption,))
        return present, tuple(captions)

    def scene(self, index: int) -> Scene:
        """Draw scene `index` with its digits and masks.

        Raises:
            IndexError: If `index` is not in 0 to `size` - 1.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"scene {index} of {self.size}")
        rng = np.random.default_rng((_SPLITS.index(self.split), self.seed, index))
        return _compose(index % 10, self.split, rng)


@cache
def _handwriting(split: Split) -> tuple[Floats, ...]:
    from sklearn.datasets import load_digits

    data = load_digits()
    by_class = [data.images[data.target == digit].astype(np.float32) / 16 for digit in range(10)]
    cut = [len(images) * 2 // 3 for images in by_class]
    return tuple(images[:n] if split == "train" else images[n:] for images, n in zip(by_class, cut, strict=True))


def _compose(label: int, split: Split, rng: np.random.Generator) -> Scene:
    count = int(rng.integers(1, 5))
    others = rng.permutation([digit for digit in range(10) if digit != label])[: count - 1]
    colours = rng.permutation(list(COLOURS))[:count]
    cells = rng.permutation(len(CELLS))[:count]
    canvas = _background(rng)
    masks = np.zeros((SIDE, SIDE), np.uint8)
    placed = []
    for i, digit in enumerate([label, *others]):
        size = int(rng.integers(*SIZES["large" if i == 0 else ("small", "medium")[rng.integers(2)]], endpoint=True))
        images = _handwriting(split)[digit]
        alpha = _enlarge(images[rng.integers(len(images))], size)
        top, left = rng.integers(0, SIDE // 2 - size, 2, endpoint=True) + SIDE // 2 * np.array(divmod(cells[i], 2))
        window = np.s_[top : top + size, left : left + size]
        paint = np.array(COLOURS[colours[i]], np.float32) * rng.uniform(0.85, 1.0)
        canvas[window] += alpha[..., None] * (paint - canvas[window])
        masks[window][alpha > 0.5] = i + 1
        box = _box(masks == i + 1)
        placed.append(PlacedDigit(int(digit), str(colours[i]), CELLS[cells[i]], box, size))
    return Scene(canvas.clip(0, 255).astype(np.uint8), tuple(placed), masks)


def _enlarge(image: Floats, size: int) -> Floats:
    """Return the opacity of an enlarged digit, shape (size, size): smooth strokes with soft edges."""
    return np.asarray(np.clip((_resize(image, size) - 0.2) / 0.4, 0, 1), np.float32)


def _resize(image: Floats, size: int) -> Floats:
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC), np.float32)


def _size_name(size: int) -> str:
    return next(name for name, (_, largest) in SIZES.items() if size <= largest)


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _background(rng: np.random.Generator) -> Floats:
    """Draw a dim texture in two muted tints, float32 of shape (64, 64, 3)."""
    pattern = _TEXTURES[rng.integers(len(_TEXTURES))](rng)[..., None]
    tints = rng.uniform(25, 90, (2, 1)) + rng.uniform(-14, 14, (2, 3))
    grain = rng.standard_normal((SIDE, SIDE, 1), np.float32) * 4
    return np.asarray(tints[0] + pattern * (tints[1] - tints[0]) + grain, np.float32)


def _along(rng: np.random.Generator) -> Floats:
    """Return the distance along a random direction, from -1 to 1 across the image's circumscribed circle."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, SIDE)
    return np.asarray((np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]) / np.sqrt(2), np.float32)


def _noise(rng: np.random.Generator) -> Floats:
    return _resize(rng.random((12, 12), np.float32), SIDE)


def _gradient(rng: np.random.Generator) -> Floats:
    return np.asarray((_along(rng) + 1) / 2, np.float32)


def _stripes(rng: np.random.Generator) -> Floats:
    return np.asarray((np.sin(_along(rng) * rng.uniform(12, 30)) + 1) / 2, np.float32)


def _blobs(rng: np.random.Generator) -> Floats:
    return np.asarray(np.clip((_resize(rng.random((5, 5), np.float32), SIDE) - 0.45) * 6, 0, 1), np.float32)


_TEXTURES: tuple[Callable[[np.random.Generator], Floats], ...] = (_noise, _gradient, _stripes, _blobs)
