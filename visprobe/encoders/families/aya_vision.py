"""Aya Vision: a SigLIP tower; squares of its tokens are joined and projected through a gated MLP (SwiGLU)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector

from visprobe.encoders.families.internvl import Crops, SquashedView
from visprobe.encoders.pixels import Grid
from visprobe.encoders.structure.connector import of_class
from visprobe.encoders.structure.model import Model, SingleView, one_selected

SIGLIPS: Mapping[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


class WholeImage(SquashedView):
    """Geometry of the whole image squeezed into one square, which the model reads after its tiles."""

    normalisation: ClassVar[Mapping[str, Any]] = SIGLIPS


class AyaTiles(Crops):
    """Geometry of the tiles before that square."""

    normalisation: ClassVar[Mapping[str, Any]] = SIGLIPS


def _squares_joined(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    """Project with a module that itself joins the squares and gives (B, rows, columns, width)."""
    projected: torch.Tensor = module(tokens[0])
    return projected.flatten(1, 2)


MODELS = (
    Model(
        name="Aya Vision",
        model_types=("aya_vision",),
        cls="AyaVisionForConditionalGeneration",
        reads=one_selected("Aya Vision"),
        connect=of_class(AyaVisionMultiModalProjector, project=_squares_joined),
        towers=("siglip",),
        geometry=lambda config: WholeImage(),
        untiled="only the squashed whole image is used, not the tiles that the model reads before it",
        tiles=lambda config: AyaTiles(),
        processors={"GotOcr2ImageProcessor": "GotOcr2ImageProcessorPil"},
        processor="GotOcr2ImageProcessorPil",
        single_view=SingleView({"crop_to_patches": False}),
        image_token="img_patch_token",
    ),
)
