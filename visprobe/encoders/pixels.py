"""Images as a tower reads them: its input tensors, and the grid of patch tokens that each image will have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

Grid = tuple[int, int]


@dataclass(frozen=True)
class Pixels:
    """A batch of images as the inputs of a tower.

    Attributes:
        inputs: Tensors by the names of the tower's arguments; in each the images follow each other along dimension 0.
        grids: Rows and columns of patch tokens of each image.
    """

    inputs: Mapping[str, torch.Tensor]
    grids: tuple[Grid, ...]

    def __len__(self) -> int:
        return len(self.grids)

    @classmethod
    def join(cls, parts: Sequence[Pixels]) -> Pixels:
        """The images of all `parts` in one batch; smaller images are padded with zeros to the largest."""
        inputs = {name: _stacked([part.inputs[name] for part in parts]) for name in parts[0].inputs}
        return cls(inputs, tuple(grid for part in parts for grid in part.grids))

    def to(self, device: torch.device, dtype: torch.dtype) -> Pixels:
        """The same batch on `device`, floating-point tensors in `dtype`."""
        moved = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in self.inputs.items()}
        return Pixels(moved, self.grids)


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([_padded(tensor, largest) for tensor in tensors])


def _padded(tensor: torch.Tensor, largest: Sequence[int]) -> torch.Tensor:
    wanting = [size - own for size, own in zip(largest, tensor.shape[1:], strict=True)]
    if not any(wanting):
        return tensor
    return pad(tensor, [part for size in reversed(wanting) for part in (0, size)])
