"""Tiles of LLaVA: an image is fitted into the best of several sizes, which are multiples of the tower's."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.image_utils import PILImageResampling

from visprobe.encoders.checkpoint.opened import Checkpoint
from visprobe.encoders.pixels import Mosaic, Pixels
from visprobe.encoders.processor import Resolution, make_processor, plain_fields
from visprobe.encoders.structure.geometry import Tiled, arranged, side, tiles
from visprobe.errors import CheckpointError

_CUTS = "LlavaNextImageProcessorPil"
_STORED = (  # the last is stored by an extracted encoder of LLaVA-NeXT for its base view
    "LlavaNextImageProcessor", "LlavaOnevisionImageProcessor", "SiglipImageProcessor", "CLIPImageProcessor",
    "GotOcr2ImageProcessor",
)  # fmt: skip


@dataclass(frozen=True)
class AnyRes(Tiled):
    """Geometry of tiles of the padded image, whose padding is removed again.

    Attributes:
        pinpoints: Heights and widths, in pixels, that an image may be fitted into, where the processor names none.
        notes: Warnings for the reader.
    """

    pinpoints: Sequence[Sequence[int]]
    notes: tuple[str, ...] = Tiled.notes
    processor: ClassVar[str] = _CUTS
    processors: ClassVar[Mapping[str, str]] = dict.fromkeys(_STORED, _CUTS)

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields; sizes that are not stored are those of the tower."""
        square = {"height": side(config.image_size), "width": side(config.image_size)}
        sizes = {"size": square, "crop_size": square}
        kept = {name: value for name, value in plain_fields(stored).items() if value is not None}
        pinpoints = stored.get("image_grid_pinpoints") or self.pinpoints
        return {**sizes, **kept, "image_grid_pinpoints": [list(size) for size in pinpoints]}

    def cut(self, processor: Any, config: Any, image: Image.Image) -> Pixels:
        """Cut one RGB image into the tiles after its base view."""
        size = image.height, image.width
        height, width = select_best_resolution(size, processor.image_grid_pinpoints)
        values = processor([image], return_tensors="pt")["pixel_values"][0][1:]
        length = values.shape[-1]
        pixels = tiles(values, arranged(height // length, width // length, length, config))
        mosaic = _unpadded(pixels.mosaics[0], size)
        return replace(pixels, grids=(mosaic.grid,), mosaics=(mosaic,))


def any_resolution(config: Any) -> AnyRes:
    """Return how a LLaVA-NeXT or LLaVA-OneVision of configuration `config` cuts tiles."""
    return AnyRes(config.image_grid_pinpoints, notes_on(getattr(config, "vision_aspect_ratio", "")))


def original_tiles(checkpoint: Checkpoint, base: Any) -> AnyRes | None:
    """Return how an original LLaVA cuts tiles, or None if it does not, or not by `image_grid_pinpoints`.

    Args:
        checkpoint: An original LLaVA checkpoint.
        base: Processor of its base view, which is as large as a tile.

    Raises:
        CheckpointError: If it has no usable `image_grid_pinpoints`.
    """
    ratio, written = str(checkpoint.raw.get("image_aspect_ratio")), checkpoint.raw.get("image_grid_pinpoints")
    if not ratio.startswith("anyres"):
        return None
    length = int(base.size["height"])
    pinpoints = _original_pinpoints(written, length)
    if not pinpoints or any(edge % length or edge < length for size in pinpoints for edge in size):
        raise CheckpointError(
            f"{checkpoint.spec} cuts images into tiles of {length} pixels by the image_grid_pinpoints {written!r}",
            hint="config.json must hold widths and heights that are multiples of that, listed or as (1x1),...,(6x6).",
        )
    notes = notes_on(ratio)
    if "unpad" not in str(checkpoint.raw.get("mm_patch_merge_type")):
        notes = (*notes, "the model also reads the padding around the image; here it is left out")
    return AnyRes(pinpoints, notes)


def _original_pinpoints(written: Any, length: int) -> list[list[int]]:
    """Return heights and widths in pixels; original LLaVA writes a list of widths and heights, or a range of tiles."""
    if isinstance(written, str) and "x" in written:
        pairs = [(int(width), int(height)) for width, height in re.findall(r"\((\d+)x(\d+)\)", written)]
        (left, top), (right, bottom) = (pairs[0], pairs[-1]) if pairs else ((1, 1), (0, 0))
        return [[h * length, w * length] for w in range(left, right + 1) for h in range(top, bottom + 1)]
    try:
        listed = literal_eval(written) if isinstance(written, str) else written
        return [[int(height), int(width)] for width, height in listed]
    except (SyntaxError, TypeError, ValueError):
        return []


def tile_processor(base: Any, tiles: AnyRes, config: Any) -> Any:
    """Make the processor that cuts `tiles` for a tower of configuration `config`, with the mean and std of `base`.

    Images are resized bicubically as in the original code, whatever filter `base` has.
    """
    square = {"height": base.size["height"], "width": base.size["width"]}
    same = {"size": square, "crop_size": square, "image_mean": base.image_mean, "image_std": base.image_std}
    fields = tiles.fields({**same, "resample": int(PILImageResampling.BICUBIC)}, config, Resolution())
    return make_processor(tiles.processor, fields)


def notes_on(ratio: str) -> tuple[str, ...]:
    """Return warnings about tiles where the model's aspect ratio is `ratio` ("anyres_max_9")."""
    most = ratio.removeprefix("anyres_max_")
    if not most.isdigit():
        return Tiled.notes
    return (*Tiled.notes, f"the model shrinks what it projects of more than {most} tiles; here all tokens are kept")


def _unpadded(mosaic: Mosaic, size: tuple[int, int]) -> Mosaic:
    """Remove the rows or columns that the model removes for an image of `size` (height, width).

    Source: `unpad_image` of transformers. Differs from source: of an image so narrow that nothing of it would be left,
    the two middle rows or columns are kept. Original LLaVA does not round to 7 digits before it cuts off decimals.
    """
    (rows, columns), (height, width) = mosaic.grid, size
    if width / height > columns / rows:
        cut = _margin(rows, height * (columns / width))
        return replace(mosaic, window=(cut, 0, rows - cut, columns))
    cut = _margin(columns, width * (rows / height))
    return replace(mosaic, window=(0, cut, rows, columns - cut))


def _margin(length: int, shown: float) -> int:
    return min((length - int(round(shown, 7))) // 2, (length - 1) // 2)
