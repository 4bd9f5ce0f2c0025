"""Pixtral, the tower of LLaVA-style Pixtral checkpoints and of Mistral 3, and Mistral 3 itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isqrt
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector

from visprobe.encoders.families.siglip2 import fits
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.connector import Connector, of_class
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, side
from visprobe.encoders.structure.model import Model, one_selected
from visprobe.errors import UsageError
from visprobe.io.containers.tensors import TensorEntry

ORDER = 10


class Packed(Geometry):
    """Geometry of images in their own proportions, each forwarded by itself.

    The model's processor bounds the longest edge and never enlarges, so a small or a narrow image gets fewer
    pixels than others. Here each image is resized, with the filter of that processor, to the largest whole number of
    patches within one pixel budget that keeps its proportions, as for other towers of native resolution; the rest
    of the processor follows. Where the budget is a square of whole patches, a larger square image gets the same pixels
    from both.

    The tower packs a batch into one sequence, with a mask that is quadratic in it: images go through one by one.

    Args:
        merge: Side of the square of patches that the connector joins; rows and columns are multiples of it.
    """

    resolution = "native"
    plain = False

    def __init__(self, merge: int = 1) -> None:
        self.merge = merge

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields with `resolution.pixels` as largest number of pixels.

        Raises:
            UsageError: If the budget does not hold one cell of patches.
        """
        cell = side(config.patch_size) * self.merge
        if resolution.pixels < cell**2:
            raise UsageError(
                f"{resolution.pixels} pixels per image are less than one cell of {cell}x{cell}",
                hint=f"Give at least {cell**2}.",
            )
        own = {"max_pixels": resolution.pixels, "patch_size": {"height": cell, "width": cell}}
        return {name: value for name, value in plain_fields(stored).items() if name != "size"} | own

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn RGB `images` of any sizes into pixels, padded to the largest, and their sizes."""
        return Pixels.join([self._one(processor, side(config.patch_size), image) for image in images])

    def _one(self, processor: Any, patch: int, image: Image.Image) -> Pixels:
        cell = patch * self.merge
        rows, columns = _cells(image, processor.max_pixels // cell**2)
        resized = image.resize((columns * cell, rows * cell), Image.Resampling(processor.resample))
        values = torch.as_tensor(processor([resized], do_resize=False, return_tensors="pt")["pixel_values"])
        height, width = values.shape[-2:]
        inputs = {"pixel_values": values.float(), "image_sizes": torch.tensor([[height, width]])}
        return Pixels(inputs, ((height // patch, width // patch),))

    def grid(self, processor: Any, config: Any) -> Grid | None:
        """Return None: the grid depends on the image.

        Raises:
            CheckpointError: If the processor is not one for this tower.
        """
        fits(processor, {"pixel_values", "image_sizes"})
        return None

    def pieces(self, pixels: Pixels) -> Iterator[Pixels]:
        """Yield `pixels` image by image, without padding."""
        values, sizes = pixels.inputs["pixel_values"], pixels.inputs["image_sizes"]
        for n, (height, width) in enumerate(sizes.tolist()):
            inputs = {"pixel_values": values[n : n + 1, :, :height, :width], "image_sizes": sizes[n : n + 1]}
            yield Pixels(inputs, pixels.grids[n : n + 1])


def _cells(image: Image.Image, budget: int) -> Grid:
    """Return the largest rows and columns in the proportions of `image`, rounded down, with at most `budget` cells."""
    width, height = image.size
    # rows * columns = budget and rows / columns = height / width give rows² = budget * height / width
    rows, columns = isqrt(budget * height // width), isqrt(budget * width // height)
    return min(max(rows, 1), budget), min(max(columns, 1), budget)


def _merger(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
    project = partial(_project, side(config.vision_config.patch_size))
    return of_class(Mistral3MultiModalProjector, project=project)(config, entries, reads)


def _project(patch: int, module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    batch = len(tokens[0])
    sizes = [(grid[0] * patch, grid[1] * patch)] * batch
    projected: torch.Tensor = module(tokens[0].flatten(0, 1), sizes)
    return projected.reshape(batch, -1, projected.shape[-1])


TOWERS = (
    Family(
        name="pixtral",
        model_types=("pixtral",),
        tower_class="PixtralVisionModel",
        blocks=(("transformer.layers", "num_hidden_layers"),),
        geometry=Packed(),
        attention_output="attention.o_proj",
        processor="PixtralImageProcessorPil",
        processors={"PixtralImageProcessor": "PixtralImageProcessorPil"},
    ),
)
MODELS = (
    Model(
        name="Mistral 3",
        model_types=("mistral3",),
        cls="Mistral3ForConditionalGeneration",
        reads=one_selected("Mistral 3"),
        connect=_merger,
        towers=("pixtral",),
        geometry=lambda config: Packed(int(config.spatial_merge_size)),
    ),
)
