"""Attribution map of one image: the contribution of each patch to the score."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from visprobe.encoders.pixels import Grid


@dataclass(frozen=True)
class Map:
    """An attribution map of one image by one method at one site.

    Attributes:
        values: Signed values as the method defines them, float32 of shape (rows, columns), on the CPU.
        score: Number that is explained.
        method: Name of the method.
        site: Name of the site, "pixels" for methods that change the input.
        note: Caveat about this map, or "".
        delta: For integrated gradients, the sum of the values minus the score difference between image and baseline,
            which is 0 for an exact integral.
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
