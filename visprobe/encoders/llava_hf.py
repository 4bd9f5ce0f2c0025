"""LLaVA and LLaVA-OneVision as transformers saves them, in any of their four spellings of tensor names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visprobe.encoders.family import FAMILY_OF
from visprobe.encoders.layout import Layout, hidden_state, no_projector, no_tower, under
from visprobe.encoders.processor import find_processor
from visprobe.errors import CheckpointError

MODEL_TYPES = ("llava", "llava_onevision")
_TOWERS = ("siglip", "clip", "dinov2", "vit")
# Longer prefixes first: each is also a beginning of names in the spelling after it.
_PREFIXES = (
    ("B", "model.vision_tower.vision_model.", "model.multi_modal_projector."),
    ("D", "model.vision_tower.", "model.multi_modal_projector."),
    ("A", "vision_tower.vision_model.", "multi_modal_projector."),
    ("C", "vision_tower.", "multi_modal_projector."),
)
_ONEVISION = "only the squashed base view of an image is used, not the tiles that LLaVA-OneVision reads beside it"


def llava_hf(folder: Path, config: Any, names: list[str]) -> Layout:
    """The layout of a `LlavaForConditionalGeneration` or `LlavaOnevisionForConditionalGeneration`.

    Args:
        folder: Checkpoint folder.
        config: Its transformers configuration.
        names: Names of its tensors.

    Raises:
        CheckpointError: If the tower is absent or of another family, or several vision layers are selected.
    """
    vision = config.vision_config
    family = FAMILY_OF.get(vision.model_type)
    if family is None or family.name not in _TOWERS:
        raise CheckpointError(
            f"{folder} is a {config.model_type} with a tower of type {vision.model_type}",
            hint="Supported towers in LLaVA checkpoints are SigLIP, CLIP, DINOv2 and ViT.",
        )
    if not isinstance(config.vision_feature_layer, int):
        raise CheckpointError(
            f"{folder} feeds several vision layers to its language model ({config.vision_feature_layer})",
            hint="Checkpoints with one vision_feature_layer (an integer) are supported.",
        )
    letter, prefix, projector = _spelling(folder, names, vision.model_type)
    if not under(projector, names):
        raise no_projector(folder, names)
    tower = under(prefix, names)
    processor, assumed = find_processor(folder, family.name, vision.image_size)
    warnings = [] if config.model_type == "llava" else [_ONEVISION]
    warnings += _selection_warnings(config.vision_feature_select_strategy, family.has_cls) + assumed
    if family.name == "siglip":
        vision.vision_use_head = any(name.startswith("head.") for name in tower)
    return Layout(
        name=letter,
        family=family,
        config=vision,
        tower_name=vision.model_type,
        tower=tower,
        projector=under(projector, names),
        activation=config.projector_hidden_act,
        consumed=hidden_state(config.vision_feature_layer, vision.num_hidden_layers),
        why=f"vision_feature_layer is {config.vision_feature_layer} of {vision.num_hidden_layers} blocks",
        processor=processor,
        warnings=tuple(warnings),
    )


def _spelling(folder: Path, names: list[str], tower: str) -> tuple[str, str, str]:
    for found in _PREFIXES:
        if any(name.startswith(found[1]) for name in names):
            return found
    raise no_tower(folder, tower, names)


def _selection_warnings(strategy: str, has_cls: bool) -> list[str]:
    if strategy == "default" and not has_cls:
        return [
            'vision_feature_select_strategy "default" makes the MLLM drop the first patch of this tower, which has no '
            "class token; it is kept here, so that the grid stays whole"
        ]
    if strategy == "full" and has_cls:
        return ["the MLLM also reads the class token; consumed and projected hold patch tokens only"]
    return []
