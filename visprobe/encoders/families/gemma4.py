"""Gemma 4: native resolution; squares of patches are pooled on the way to the language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from visprobe.encoders.families.siglip2 import PaddedPatches
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.connector import Connector, ConnectorOutput
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import side
from visprobe.encoders.structure.model import Model, Spelling
from visprobe.errors import UsageError
from visprobe.io.containers.tensors import TensorEntry

ORDER = 11

_TOKENS = (70, 140, 280, 560, 1120)  # the only numbers of tokens that the model's processor accepts


class SoftTokens(PaddedPatches):
    """Geometry of the largest number of pooled tokens within the budget that the processor accepts."""

    gives: ClassVar[Mapping[str, str]] = {"pixel_values": "pixel_values", "pixel_position_ids": "image_position_ids"}

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields with the number of tokens that `resolution.pixels` allows.

        Raises:
            UsageError: If it allows none.
        """
        patch, pool = side(config.patch_size), int(config.pooling_kernel_size)
        area = (patch * pool) ** 2
        allowed = [count for count in _TOKENS if count * area <= resolution.pixels]
        if not allowed:
            raise UsageError(
                f"{resolution.pixels} pixels per image are fewer than Gemma 4's image processor can give",
                hint=f"Give at least {_TOKENS[0] * area}: {_TOKENS[0]} tokens of {patch * pool}x{patch * pool} pixels.",
            )
        own = {"patch_size": patch, "pooling_kernel_size": pool, "max_soft_tokens": allowed[-1]}
        return plain_fields(stored) | own

    def grids(self, inputs: Mapping[str, torch.Tensor]) -> tuple[Grid, ...]:
        """Return rows and columns of each image of a batch; padding has the position -1."""
        ends = inputs["pixel_position_ids"].amax(dim=1) + 1
        return tuple((rows, columns) for columns, rows in ends.tolist())

    def run(self, tower: torch.nn.Module, pixels: Pixels) -> None:
        """Run `tower` up to its last block; the pooler after it belongs to the connector."""
        positions = pixels.inputs["pixel_position_ids"]
        filling = (positions == -1).all(dim=-1)
        states = tower.get_submodule("patch_embedder")(pixels.inputs["pixel_values"], positions, filling)
        tower.get_submodule("encoder")(inputs_embeds=states, attention_mask=~filling, pixel_position_ids=positions)


class PooledEmbedder(nn.Module):
    """Pooler of the tower's class, its standardisation, and the embedder of the model's class.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: Any) -> None:
        from transformers.models.gemma4.modeling_gemma4 import Gemma4MultimodalEmbedder, Gemma4VisionPooler

        super().__init__()
        vision = config.vision_config
        self.pool = int(vision.pooling_kernel_size)
        self.pooler = Gemma4VisionPooler(vision)
        self.embed_vision = Gemma4MultimodalEmbedder(vision, config.text_config)
        self.standardize = bool(vision.standardize)
        if self.standardize:
            self.register_buffer("std_bias", torch.zeros(vision.hidden_size))
            self.register_buffer("std_scale", torch.ones(vision.hidden_size))

    def forward(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Pool patch tokens (B, rows x columns, D) to tokens of the language model (B, rows x columns / pool², W)."""
        positions = _positions(grid).to(tokens.device).expand(len(tokens), -1, -1)
        no_filling = torch.zeros_like(positions[..., 0], dtype=torch.bool)
        length = tokens.shape[1] // self.pool**2
        # The pooler returns float32: it scales by sqrt(width), which can exceed float16 before standardisation.
        pooled, _ = self.pooler(tokens, positions, no_filling, length)
        if self.standardize:
            pooled = (pooled - self.get_buffer("std_bias").float()) * self.get_buffer("std_scale").float()
        embedded: torch.Tensor = self.embed_vision(pooled.to(tokens.dtype))
        return embedded


def _positions(grid: Grid) -> torch.Tensor:
    """Return column and row of each patch in raster order, shape (rows x columns, 2)."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)


def _last_block(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    depth = family.depth(config.vision_config)
    return (family.last_site(config.vision_config),), f"the pooler reads the last of {depth} blocks"


def _connect(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
    tap = ConnectorOutput("projected", reads, int(config.text_config.hidden_size), _project)
    return Connector("Gemma4MultimodalEmbedder after pooling", partial(PooledEmbedder, config), (tap,))


def _project(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    projected: torch.Tensor = module(tokens[0], grid)
    return projected


def _spelling(name: str, outer: str) -> Spelling:
    connector = {"embed_vision.": f"{outer}embed_vision.", "std_": f"{outer}vision_tower.std_"}
    return Spelling(name, f"{outer}vision_tower.", connector)


TOWERS = (
    Family(
        name="gemma4",
        model_types=("gemma4_vision",),
        tower_class="Gemma4VisionModel",
        detached=("pooler", "std_bias", "std_scale"),
        attention_output="self_attn.o_proj",
        geometry=SoftTokens(),
        processor="Gemma4ImageProcessorPil",
        processors={"Gemma4ImageProcessor": "Gemma4ImageProcessorPil"},
    ),
)
MODELS = (
    Model(
        name="Gemma 4",
        model_types=("gemma4",),
        cls="Gemma4ForConditionalGeneration",
        spellings=(_spelling("D", "model."), _spelling("C", "")),
        reads=_last_block,
        connect=_connect,
        towers=("gemma4",),
    ),
)
