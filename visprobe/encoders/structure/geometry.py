"""Geometry of a tower: images to inputs, hidden states to tokens in raster order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, output_size, plain_fields

View = tuple[torch.Tensor, Grid]


class Geometry:
    """Geometry in which every image fills the tower's square input and states are (B, prefix tokens + patches, D).

    Patches are in raster order. Subclasses override what differs.

    Attributes:
        resolution: "fixed", or "native" where the number of tokens follows the image.
        plain: True if the image processor by itself makes the pixels that its checkpoint asks for.
    """

    resolution = "fixed"
    plain = True

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return arguments of the image processor's class.

        Args:
            stored: Fields that the checkpoint stores; empty if it stores none.
            config: Configuration of the tower.
            resolution: Pixels per image, and whether tiles are read.
        """
        return plain_fields(stored)

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn RGB `images` of any sizes into inputs of the tower, float32, on the CPU."""
        values = torch.as_tensor(processor(list(images), return_tensors="pt")["pixel_values"], dtype=torch.float32)
        height, width = values.shape[-2:]
        patch = side(config.patch_size)
        return Pixels({"pixel_values": values}, ((height // patch, width // patch),) * len(values))

    def grid(self, processor: Any, config: Any) -> Grid | None:
        """Return rows and columns of patch tokens, or None if they depend on the image.

        Raises:
            CheckpointError: If the processor does not fit the tower.
        """
        height, width = output_size(processor)
        patch = side(config.patch_size)
        return height // patch, width // patch

    def pieces(self, pixels: Pixels) -> Iterator[Pixels]:
        """Split `pixels` into parts that the tower takes at once."""
        yield pixels

    def run(self, tower: torch.nn.Module, pixels: Pixels) -> None:
        """Run `tower`; hooks take the states."""
        tower(**pixels.inputs)

    def views(self, state: torch.Tensor, pixels: Pixels, tower: torch.nn.Module) -> list[View]:
        """Split a hidden state of `tower` into tokens of one grid each, in the order of the images.

        Args:
            state: Output of a block of the tower for `pixels`.
            pixels: Piece of the batch that was forwarded.
            tower: Tower that was forwarded.

        Returns:
            Tokens of shape (n, prefix tokens + rows x columns, D) with their grid, patches in raster order.
        """
        return [(state, pixels.grids[0])]

    def images(self, views: list[View], pixels: Pixels) -> list[View]:
        """Put views without prefix tokens together to images: the tiles of one image become one grid."""
        return views


SQUARE = Geometry()


def side(size: Any) -> int:
    """Return the side of a square given as one number or two."""
    return int(size) if isinstance(size, int) else int(size[0])
