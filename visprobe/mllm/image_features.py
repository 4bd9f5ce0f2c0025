"""Image features that a multimodal LLM reads, and the vision tower inside it that makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from visprobe.encoders.encoder import VisionEncoder, shrunk
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.settings import first_difference, tower_settings
from visprobe.encoders.structure.geometry import View
from visprobe.encoders.tower import Captured
from visprobe.errors import CheckpointError
from visprobe.mllm.question import TokenizedPrompt


def tower_of(model: Any, encoder: VisionEncoder) -> torch.nn.Module:
    """Return the vision tower of `model`: its only module of the encoder's class.

    Raises:
        CheckpointError: If there is not exactly one, or its settings differ from the encoder's.
    """
    found = [module for module in model.modules() if isinstance(module, encoder.family.cls)]
    if len(found) != 1:
        raise CheckpointError(
            f"{encoder.name}: the model has {len(found)} towers of the class {encoder.family.cls.__name__}, not one",
            hint="Take the encoder and the model from one checkpoint.",
        )
    if difference := first_difference(tower_settings(encoder.config), tower_settings(found[0].config)):
        raise CheckpointError(
            f"{encoder.name}: the model has another tower than the encoder: {difference}",
            hint="Take the encoder and the model from one checkpoint.",
        )
    tower: torch.nn.Module = found[0]
    return tower


def image_features(model: Any, question: TokenizedPrompt, pixels: Pixels) -> Any:
    """Compute the image features that the language model reads, in one run of the tower.

    Args:
        model: MLLM of transformers.
        question: Any question about the image, for its image inputs.
        pixels: Preprocessed image; takes the place of the question's pixels.

    Returns:
        Output of the model's `get_image_features`.
    """
    (values,) = [tensor for tensor in pixels.inputs.values() if tensor.is_floating_point()]
    given = {**question.images, "pixel_values": values.reshape(question.images["pixel_values"].shape)}
    return model.get_image_features(**on_device(values.device, given), return_dict=True)


def projected(encoder: VisionEncoder, features: Any, grid: Grid, newlines: int) -> Captured:
    """Capture the site "projected": the patch tokens among the image features.

    Args:
        encoder: Encoder of the tower.
        features: Result of `image_features`.
        grid: Rows and columns of patches in the tower.
        newlines: Number of tokens after those of the image.

    Raises:
        CheckpointError: If the tokens do not fill a grid.
    """
    pooled = features.pooler_output
    leaf = pooled if isinstance(pooled, torch.Tensor) else pooled[0]
    patches, count = grid[0] * grid[1], leaf.shape[-2] - newlines
    lead = encoder.prefix_tokens if count > patches else 0  # some models read the class token too
    rows, columns = shrunk(grid, patches, count - lead)
    if rows * columns != count - lead:
        raise CheckpointError(
            f"{encoder.name}: the {count} image tokens that the language model reads are no whole grid",
            hint="Name a site of the tower, such as consumed.",
        )

    def views(tensors: Sequence[torch.Tensor]) -> list[View]:
        return [(tensors[0].reshape(1, *tensors[0].shape[-2:])[:, lead:count], (rows, columns))]

    return Captured((leaf,), views)


def on_device(device: torch.device, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Move tensors to `device`."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}
