"""Training scenes in memory, with labels for each patch of the vision tower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from visprobe.demo.scenes import COLOURS, DigitScenes, Scene
from visprobe.demo.small_llava import PATCH

_ENOUGH = 4  # pixels of a digit, out of 64, from which a patch counts as the digit's


@dataclass(frozen=True)
class ScenePool:
    """Scenes with the digit and colour of each patch.

    Attributes:
        scenes: The scenes.
        digits: int64 of shape (n, patches): 0 for background, else 1 + digit.
        colours: int64 of shape (n, patches): 0 for background, else 1 + index in `COLOURS`.
    """

    scenes: list[Scene]
    digits: torch.Tensor
    colours: torch.Tensor

    @classmethod
    def of(cls, data: DigitScenes) -> ScenePool:
        """Draw all scenes of `data` into memory, about 20 kB each."""
        scenes = [data.scene(i) for i in range(data.size)]
        labels = [patch_labels(scene) for scene in scenes]
        digits, colours = (torch.from_numpy(np.stack(column)) for column in zip(*labels, strict=True))
        return cls(scenes, digits, colours)

    def pixel_values(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return scenes `rows` preprocessed for the model, float32 of shape (len(rows), 3, 64, 64) in [-1, 1]."""
        images = np.stack([self.scenes[i].image for i in rows]).transpose(0, 3, 1, 2)
        return torch.from_numpy(images.astype(np.float32) / 127.5 - 1)


def patch_labels(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label each patch with the digit and colour that most of its pixels belong to, in raster order.

    Returns:
        Two int64 arrays of shape (64,), with the numbers of `ScenePool`; 0 if no digit has 4 pixels of the patch.
    """
    side = len(scene.masks) // PATCH
    # Cut the 64 x 64 mask into 8 x 8 patches, each flattened to its pixels.
    patches = scene.masks.reshape(side, PATCH, side, PATCH).swapaxes(1, 2).reshape(side * side, -1)
    pixels = np.stack([(patches == i + 1).sum(1) for i in range(len(scene.digits))], 1)
    instance = np.where(pixels.max(1) >= _ENOUGH, pixels.argmax(1) + 1, 0)
    names = list(COLOURS)
    digits = np.array([0, *(1 + d.digit for d in scene.digits)])
    colours = np.array([0, *(1 + names.index(d.colour) for d in scene.digits)])
    return digits[instance], colours[instance]
