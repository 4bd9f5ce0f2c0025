"""Geometry of a tower: images, whole or in tiles, to inputs; hidden states to tokens in raster order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from visprobe.encoders.pixels import Grid, Mosaic, Pixels
from visprobe.encoders.processor import Resolution, output_size, plain_fields
from visprobe.errors import CheckpointError

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


NO_TILES = "this model has no tiles that make up one grid: each image is read as one view"

LEFT_OUT = "the tiles of an image are read, and not the view of the whole image that the model reads beside them"


class Tiled(Geometry):
    """Geometry of tiles of one size, row by row; images are forwarded one by one, and prefix tokens dropped.

    A subclass cuts the image in `cut`. Views of the whole image that a model reads beside the tiles are left out.

    Attributes:
        notes: Warnings for the reader about the tiles.
        processor: transformers class that cuts the tiles, where that is not the class that makes the base view.
        processors: Classes to use for stored kinds of processor, where they are not those for the base view.
    """

    notes: tuple[str, ...] = (LEFT_OUT,)
    processor: ClassVar[str] = ""
    processors: ClassVar[Mapping[str, str]] = {}

    def cut(self, processor: Any, config: Any, image: Image.Image) -> Pixels:
        """Cut one RGB image of any size into its tiles."""
        raise NotImplementedError

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Cut RGB `images` of any sizes into their tiles."""
        return Pixels.join([self.cut(processor, config, image) for image in images])

    def grid(self, processor: Any, config: Any) -> Grid | None:
        """Return None: the grid depends on the image."""
        return None

    def check_tile(self, processor: Any, config: Any) -> None:
        """Refuse a processor that cuts tiles of another size than the tower reads.

        Raises:
            CheckpointError: If the sizes differ.
        """
        found = self.cut(processor, config, Image.new("RGB", (64, 48))).inputs["pixel_values"].shape[-2:]
        if tuple(found) != (side(config.image_size),) * 2:
            raise CheckpointError(
                f"the image processor cuts tiles of {found[0]}x{found[1]} pixels, the tower reads "
                f"{side(config.image_size)}x{side(config.image_size)}",
                hint="Give the checkpoint the preprocessor_config.json of its base model.",
            )

    def pieces(self, pixels: Pixels) -> Iterator[Pixels]:
        """Yield one image at a time: a batch may have hundreds of tiles."""
        start = 0
        for grid, mosaic in zip(pixels.grids, pixels.mosaics, strict=True):
            stop = start + mosaic.rows * mosaic.columns
            inputs = {name: tensor[start:stop] for name, tensor in pixels.inputs.items()}
            yield Pixels(inputs, (grid,), (mosaic,))
            start = stop

    def views(self, state: torch.Tensor, pixels: Pixels, tower: torch.nn.Module) -> list[View]:
        """Return the tiles of the one image."""
        return [(state, pixels.mosaics[0].tile)]

    def images(self, views: list[View], pixels: Pixels) -> list[View]:
        """Put all tiles together to one grid, without tokens of padding."""
        ((tokens, tile),), (mosaic,) = views, pixels.mosaics
        rows, columns = mosaic.rows * tile[0], mosaic.columns * tile[1]
        # (rows, columns, tile rows, tile columns, D): swapping 1 and 2 puts tokens of one row beside each other
        whole = tokens.reshape(mosaic.rows, mosaic.columns, *tile, -1).transpose(1, 2).reshape(rows, columns, -1)
        top, left, bottom, right = _scaled(mosaic, tile)
        shown = whole[top:bottom, left:right]
        return [(shown.reshape(1, -1, shown.shape[-1]), (bottom - top, right - left))]


def tiles(values: Any, mosaic: Mosaic) -> Pixels:
    """Make inputs of a tower from the tiles of one image.

    Args:
        values: Pixels of the tiles, row by row, shape (rows x columns, 3, height, width).
        mosaic: Arrangement of the tiles.

    Raises:
        CheckpointError: If the number of tiles is not that of `mosaic`.
    """
    tensor = torch.as_tensor(values, dtype=torch.float32)
    if len(tensor) != mosaic.rows * mosaic.columns:
        raise CheckpointError(
            f"the image processor cuts {len(tensor)} tiles where the model expects {mosaic.rows}x{mosaic.columns}",
            hint="Give the checkpoint the preprocessor_config.json of its base model.",
        )
    return Pixels({"pixel_values": tensor}, (mosaic.grid,), (mosaic,))


def arranged(rows: int, columns: int, length: int, config: Any) -> Mosaic:
    """Arrange `rows` x `columns` tiles of `length` x `length` pixels, without padding, for a tower of `config`."""
    tile = (length // side(config.patch_size),) * 2
    return Mosaic(rows, columns, tile, (0, 0, rows * tile[0], columns * tile[1]))


def _scaled(mosaic: Mosaic, tile: Grid) -> tuple[int, int, int, int]:
    """Scale the window to a connector that leaves `tile` of each tile; tokens that show some of the image are kept."""
    top, left, bottom, right = mosaic.window
    (own_rows, own_columns), (rows, columns) = mosaic.tile, tile
    return (
        top * rows // own_rows,
        left * columns // own_columns,
        -(-bottom * rows // own_rows),
        -(-right * columns // own_columns),
    )
