"""Inputs of a tower for a batch of images, with the grid of patch tokens of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

Grid = tuple[int, int]


@dataclass(frozen=True)
class Mosaic:
    """Arrangement of the tiles of one image.

    Attributes:
        rows: Rows of tiles.
        columns: Columns of tiles.
        tile: Rows and columns of patch tokens of one tile.
        window: First row, first column, row after the last and column after the last of the patch tokens that show the
            image; the others show padding.
    """

    rows: int
    columns: int
    tile: Grid
    window: tuple[int, int, int, int]

    @property
    def grid(self) -> Grid:
        """Rows and columns of patch tokens of the image."""
        top, left, bottom, right = self.window
        return bottom - top, right - left


@dataclass(frozen=True)
class Pixels:
    """Batch of images as the inputs of a tower.

    Attributes:
        inputs: Tensors by the names of the tower's arguments; in each the images follow each other along dimension 0.
        grids: Rows and columns of patch tokens of each image.
        mosaics: Arrangement of each image's tiles, if images are cut; the tiles follow each other row by row.
    """

    inputs: Mapping[str, torch.Tensor]
    grids: tuple[Grid, ...]
    mosaics: tuple[Mosaic, ...] = ()

    def __len__(self) -> int:
        return len(self.grids)

    @classmethod
    def join(cls, parts: Sequence[Pixels]) -> Pixels:
        """Join the images of all `parts` in one batch; smaller images are padded with zeros to the largest."""
        inputs = {name: _stacked([part.inputs[name] for part in parts]) for name in parts[0].inputs}
        grids = tuple(grid for part in parts for grid in part.grids)
        return cls(inputs, grids, tuple(mosaic for part in parts for mosaic in part.mosaics))

    def to(self, device: torch.device, dtype: torch.dtype) -> Pixels:
        """Move the batch to `device`, floating-point tensors in `dtype`."""
        moved = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in self.inputs.items()}
        return Pixels(moved, self.grids, self.mosaics)


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_padded(tensor, largest) for tensor in tensors])


def _padded(tensor: torch.Tensor, largest: Sequence[int]) -> torch.Tensor:
    wanting = [size - own for size, own in zip(largest, tensor.shape[1:], strict=True)]
    if not any(wanting):
        return tensor
    # `pad` takes sizes from the last dimension backwards, as (before, after) pairs
    return pad(tensor, [part for size in reversed(wanting) for part in (0, size)])
