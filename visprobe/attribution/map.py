"""A map of one image: how much each patch says for or against the score."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from visprobe.encoders.pixels import Grid


@dataclass(frozen=True)
class Map:
    """What one method found at one site of one image.

    Attributes:
        values: Signed values as the method defines them, float32 of shape (rows, columns), on the CPU.
        score: The number that is explained.
        method: Name of the method.
        site: Name of the site, "pixels" for methods that change the input.
        note: What a reader must know of this map; empty if nothing.
        delta: Sum of the values minus the difference of score between image and baseline, which it should equal;
            integrated gradients only.
    """

    values: torch.Tensor
    score: float
    method: str
    site: str
    note: str = ""
    delta: float | None = None

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        rows, columns = self.values.shape
        return rows, columns
