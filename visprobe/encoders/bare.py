"""Towers saved by themselves or with their text tower: SigLIP, CLIP, DINOv2, ViT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visprobe.encoders.family import FAMILY_OF, Family
from visprobe.encoders.layout import Layout, no_tower, under
from visprobe.encoders.processor import find_processor


def bare(folder: Path, config: Any, names: list[str]) -> Layout:
    """The layout of a tower without a language model.

    Args:
        folder: Checkpoint folder.
        config: Its transformers configuration.
        names: Names of its tensors.

    Raises:
        CheckpointError: If it holds no vision tensors.
    """
    family = FAMILY_OF[config.model_type]
    vision = getattr(config, "vision_config", config)
    tower = _tower_names(family, names)
    if not family.block_count(set(tower)) and not any(".layer" in name for name in tower):
        raise no_tower(folder, None, names)
    processor, warnings = find_processor(folder, family.name, vision.image_size)
    if family.name == "siglip":
        vision.vision_use_head = any(name.startswith("head.") for name in tower)
    return Layout(
        name="bare",
        family=family,
        config=vision,
        tower_name=vision.model_type,
        tower=tower,
        projector={},
        activation="gelu",
        consumed="final_norm" if family.norm_on_tokens else f"block_{vision.num_hidden_layers:02d}",
        why=f"last_hidden_state of {family.tower_class}",
        processor=processor,
        warnings=tuple(warnings),
    )


def _tower_names(family: Family, names: list[str]) -> dict[str, str]:
    for prefix in family.outer_prefixes:
        if found := under(prefix, names):
            return found
    return under("", names)
