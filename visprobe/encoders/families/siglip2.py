"""SigLIP 2 of native resolution (NaFlex); SigLIP 2 of fixed resolution is a SigLIP on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image

from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, View, side
from visprobe.errors import CheckpointError, UsageError

ORDER = 9


class PaddedPatches(Geometry):
    """Geometry of images in their own proportions as lists of patches, padded to one length; padding is no token.

    Attributes:
        gives: Argument of the tower to the output of the image processor that it takes.
    """

    resolution = "native"
    plain = False
    gives: ClassVar[Mapping[str, str]]

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn RGB `images` of any sizes into patches with their positions."""
        made = processor(list(images), return_tensors="pt")
        inputs = {argument: torch.as_tensor(made[output]) for argument, output in self.gives.items()}
        inputs["pixel_values"] = inputs["pixel_values"].float()
        return Pixels(inputs, self.grids(inputs))

    def grids(self, inputs: Mapping[str, torch.Tensor]) -> tuple[Grid, ...]:
        """Return rows and columns of each image of a batch."""
        raise NotImplementedError

    def grid(self, processor: Any, config: Any) -> Grid | None:
        """Return None: the grid depends on the image.

        Raises:
            CheckpointError: If the processor is not one for this tower.
        """
        fits(processor, set(self.gives.values()))
        return None

    def views(self, state: torch.Tensor, pixels: Pixels, tower: torch.nn.Module) -> list[View]:
        """Return tokens without padding; images of one grid together."""
        if len(set(pixels.grids)) == 1:
            rows, columns = pixels.grids[0]
            return [(state[:, : rows * columns], pixels.grids[0])]
        views = zip(torch.split(state, 1), pixels.grids, strict=True)
        return [(tokens[:, : rows * columns], (rows, columns)) for tokens, (rows, columns) in views]


class NaFlex(PaddedPatches):
    """Geometry with as many patches per image as the budget allows in its own proportions."""

    gives: ClassVar[Mapping[str, str]] = {
        name: name for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    }

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields with the number of patches that `resolution.pixels` allows.

        Raises:
            UsageError: If it allows none.
        """
        patch = side(config.patch_size)
        if resolution.pixels < patch**2:
            raise UsageError(
                f"{resolution.pixels} pixels per image are less than one patch of {patch}x{patch}",
                hint=f"Give at least {patch**2}.",
            )
        return {**plain_fields(stored), "patch_size": patch, "max_num_patches": resolution.pixels // patch**2}

    def grids(self, inputs: Mapping[str, torch.Tensor]) -> tuple[Grid, ...]:
        """Return rows and columns of each image of a batch."""
        return tuple((rows, columns) for rows, columns in inputs["spatial_shapes"].tolist())


def fits(processor: Any, outputs: set[str]) -> None:
    """Check that `processor` gives `outputs`.

    Raises:
        CheckpointError: If it does not.
    """
    if absent := outputs - set(processor.model_input_names):
        raise CheckpointError(
            f"the image processor {type(processor).__name__} does not give {', '.join(sorted(absent))}, which the "
            "tower reads",
            hint="Give the checkpoint the preprocessor_config.json of its base model.",
        )


TOWERS = (
    Family(
        name="siglip2",
        model_types=("siglip2_vision_model", "siglip2"),
        tower_class="Siglip2VisionModel",
        norm="post_layernorm",
        norm_on_tokens=True,
        head="head",
        text_class="Siglip2TextModel",
        pools=True,
        outer_prefixes=("vision_model.",),
        geometry=NaFlex(),
        processor="Siglip2ImageProcessorPil",
        processors={"Siglip2ImageProcessor": "Siglip2ImageProcessorPil"},
    ),
)
