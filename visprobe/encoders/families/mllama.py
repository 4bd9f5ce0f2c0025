"""Llama 3.2 Vision: a tower of two stacks of blocks, several of whose states are read side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import pad
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.mllama.image_processing_pil_mllama import (
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
)

from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.connector import of_class
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, Tiled, View, arranged, side
from visprobe.encoders.structure.model import Model, Spelling

ORDER = 8


class OneTile(Geometry):
    """Geometry of images fitted into the first of the tower's tiles; the others are empty."""

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields, for one tile."""
        square = {"height": side(config.image_size), "width": side(config.image_size)}
        defaults = {"size": square, "image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
        return {**defaults, **plain_fields(stored), "max_image_tiles": 1}

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn RGB `images` of any sizes into one tile each, with the empty tiles that the tower expects beside it."""
        made = processor([[image] for image in images], return_tensors="pt")
        empty = int(config.max_num_tiles) - 1
        values = pad(torch.as_tensor(made["pixel_values"], dtype=torch.float32), (0, 0) * 3 + (0, empty))
        inputs = {
            "pixel_values": values,
            "aspect_ratio_ids": made["aspect_ratio_ids"],
            "aspect_ratio_mask": pad(made["aspect_ratio_mask"], (0, empty)),
        }
        patch = side(config.patch_size)
        return Pixels(inputs, ((values.shape[-2] // patch, values.shape[-1] // patch),) * len(images))

    def pieces(self, pixels: Pixels) -> Iterator[Pixels]:
        """Yield one image at a time: for each the tower makes a mask that is quadratic in the tokens of its tiles."""
        for n, grid in enumerate(pixels.grids):
            inputs = {name: tensor[n : n + 1] for name, tensor in pixels.inputs.items()}
            yield Pixels(inputs, (grid,), pixels.mosaics[n : n + 1])

    def views(self, state: torch.Tensor, pixels: Pixels, tower: nn.Module) -> list[View]:
        """Return class and patch tokens of the first tile, without those that pad their number to a multiple of 8."""
        rows, columns = pixels.grids[0]  # tokens of the first tile come first
        return [(state[:, : 1 + rows * columns], pixels.grids[0])]


class AllTiles(Tiled, OneTile):
    """Geometry of all tiles of an image, which attend to each other, without patches outside the image."""

    notes = ("the model also reads the black that fills up the last tiles; here patches without image are left out",)

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields, for as many tiles as the tower has positions for."""
        return {**super().fields(stored, config, resolution), "max_image_tiles": int(config.max_num_tiles)}

    def cut(self, processor: Any, config: Any, image: Image.Image) -> Pixels:
        """Cut one RGB image into its tiles, with the empty ones that the tower expects after them."""
        made = processor([[image]], return_tensors="pt")
        length, patch = side(config.image_size), side(config.patch_size)
        shapes = get_all_supported_aspect_ratios(int(config.max_num_tiles))
        rows, columns = shapes[int(made["aspect_ratio_ids"][0, 0]) - 1]
        shown = get_image_size_fit_to_canvas(image.height, image.width, rows * length, columns * length, length)
        bottom, right = (ceil(pixels / patch) for pixels in shown)
        mosaic = replace(arranged(rows, columns, length, config), window=(0, 0, bottom, right))
        inputs = {name: torch.as_tensor(made[name]) for name in ("aspect_ratio_ids", "aspect_ratio_mask")}
        values = torch.as_tensor(made["pixel_values"], dtype=torch.float32)
        return Pixels({"pixel_values": values, **inputs}, (mosaic.grid,), (mosaic,))

    def pieces(self, pixels: Pixels) -> Iterator[Pixels]:
        """Yield one image at a time; its tiles are one input."""
        return OneTile.pieces(self, pixels)

    def views(self, state: torch.Tensor, pixels: Pixels, tower: nn.Module) -> list[View]:
        """Return class token and patch tokens of each tile that is not empty."""
        (mosaic,), every = pixels.mosaics, pixels.inputs["pixel_values"].shape[2]
        rows, columns = mosaic.tile
        tiles = state.reshape(every, -1, state.shape[-1])[: mosaic.rows * mosaic.columns]
        return [(tiles[:, : 1 + rows * columns], mosaic.tile)]


def _reads(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    vision, depth = config.vision_config, family.depth(config.vision_config)
    between = [f"block_{n % int(vision.num_hidden_layers) + 1:02d}" for n in vision.intermediate_layers_indices]
    why = f"the last of {depth} blocks; the model reads {', '.join(between)} beside it (intermediate_layers_indices)"
    return (*between, f"block_{depth:02d}"), why


def _linear(config: Any) -> nn.Module:
    return nn.Linear(int(config.vision_config.vision_output_dim), int(config.text_config.hidden_size))


def _concatenated(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    """Project the last state, then the others interleaved feature by feature, through one linear layer."""
    *between, last = tokens
    parts = [last, torch.stack(between, dim=-1).flatten(-2)] if between else [last]
    projected: torch.Tensor = module(torch.cat(parts, dim=-1))
    return projected


def _notes(config: Any, family: Family) -> list[str]:
    return [
        f"the model reads {len(config.vision_config.intermediate_layers_indices)} states beside the consumed one",
        "the model also reads the class token; consumed and projected hold patch tokens only",
    ]


TOWERS = (
    Family(
        name="mllama",
        model_types=("mllama_vision_model",),
        tower_class="MllamaVisionModel",
        blocks=(("transformer.layers", "num_hidden_layers"), ("global_transformer.layers", "num_global_layers")),
        has_cls=True,
        geometry=OneTile(),
        groups={"layernorm_post": "layernorm_post"},
        attention_output="self_attn.o_proj",
        tensor_classes={r"(?:^|\.)gate(?:_attn|_ffn)?$": "scale", "tile_embedding": "position_embedding"},
        processor="MllamaImageProcessorPil",
        processors={"MllamaImageProcessor": "MllamaImageProcessorPil"},
    ),
)
_CONNECTOR = "multi_modal_projector."
MODELS = (
    Model(
        name="Llama 3.2 Vision",
        model_types=("mllama",),
        cls="MllamaForConditionalGeneration",
        spellings=(
            Spelling("D", "model.vision_model.", {"": f"model.{_CONNECTOR}"}),
            Spelling("C", "vision_model.", {"": _CONNECTOR}),
        ),
        reads=_reads,
        connect=of_class(_linear, project=_concatenated),
        towers=("mllama",),
        notes=_notes,
        untiled="images are fitted into one tile, whose rest is black; the model cuts larger images into several",
        tiles=lambda config: AllTiles(),
    ),
)
