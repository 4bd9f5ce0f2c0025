"""ViP-LLaVA: five layers of CLIP side by side, normalised, and LLaVA's two linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.models.vipllava.modeling_vipllava import VipLlavaMultiModalProjector

from visprobe.encoders.families.llava import PROJECTOR, selected, spellings
from visprobe.encoders.pixels import Grid
from visprobe.encoders.structure.connector import Connector, of_class
from visprobe.encoders.structure.model import Model
from visprobe.io.containers.tensors import TensorEntry


def side_by_side(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    """The projection of the tokens of all layers read, joined along their width."""
    projected: torch.Tensor = module(torch.cat(list(tokens), dim=-1))
    return projected


def connector(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
    """The connector's class in transformers, made from the configuration of the whole model."""
    return of_class(
        VipLlavaMultiModalProjector,
        config,
        width=config.text_config.hidden_size,
        reads=reads,
        project=side_by_side,
    )


MODELS = (
    Model(
        name="ViP-LLaVA",
        model_types=("vipllava",),
        cls="VipLlavaForConditionalGeneration",
        spellings=spellings(PROJECTOR),
        reads=selected,
        connect=connector,
        towers=("clip",),
    ),
)
