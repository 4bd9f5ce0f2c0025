"""LLaVA and LLaVA-OneVision as transformers saves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visprobe.encoders.structure.anyres import any_resolution
from visprobe.encoders.structure.connector import Connector, chain
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.model import Model, SingleView
from visprobe.io.containers.tensors import TensorEntry

ORDER = 2


def mlp(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
    """Make the connector `LlavaMultiModalProjector`: linear, activation, linear."""
    width = int(config.vision_config.hidden_size)
    return chain(entries, activation=config.projector_hidden_act, tower_width=width, reads=reads)


def class_token_notes(config: Any, family: Family) -> list[str]:
    """Return warnings about what LLaVA's selection strategy does to tokens that are not patches."""
    strategy = config.vision_feature_select_strategy
    if strategy == "default" and not family.has_cls:
        return [
            'vision_feature_select_strategy "default" makes the MLLM drop the first patch of this tower, which has no '
            "class token; it is kept here, so that the grid stays whole"
        ]
    if strategy == "full" and family.has_cls:
        return ["the MLLM also reads the class token; consumed and projected hold patch tokens only"]
    return []


def base_only(name: str) -> str:
    """Return the warning where the tiles of the model `name` are not read."""
    return f"only the squashed base view of an image is used, not the tiles that {name} reads beside it"


SQUARES = ("siglip", "clip", "dinov2", "vit")
MODELS = (
    Model(
        name="LLaVA",
        model_types=("llava",),
        cls="LlavaForConditionalGeneration",
        connect=mlp,
        towers=(*SQUARES, "pixtral"),
        notes=class_token_notes,
        single_view=SingleView(),
        encoded_once=True,
    ),
    Model(
        name="LLaVA-OneVision",
        model_types=("llava_onevision",),
        cls="LlavaOnevisionForConditionalGeneration",
        connect=mlp,
        towers=SQUARES,
        notes=class_token_notes,
        untiled=base_only("LLaVA-OneVision"),
        tiles=any_resolution,
        single_view=SingleView(in_pairs=True),
        beside=("model.image_newline",),
    ),
)
