"""Layout of towers saved by themselves or with their text tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import CONFIG_MAPPING

from visprobe.encoders.checkpoint.opened import Checkpoint
from visprobe.encoders.processor import Resolution, find_processor
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.layout import Layout, block_places, no_tower, notes_on_places, twins, under


def bare_layout(family: Family, checkpoint: Checkpoint, resolution: Resolution) -> Layout:
    """Find the layout of a tower without a language model.

    Args:
        family: Family of the tower.
        checkpoint: Open checkpoint.
        resolution: Pixels per image, for towers of native resolution.

    Raises:
        CheckpointError: If it holds no vision tensors.
    """
    if _has_text_tower(checkpoint.raw) and not isinstance(checkpoint.raw.get("vision_config_dict"), dict):
        checkpoint.check_described()
    config, names = checkpoint.config, list(checkpoint.tensors)
    vision, usual = getattr(config, "vision_config", config), (*family.outer_prefixes, "")
    found = block_places(family.blocks[0][0], usual, names)
    if not found:
        raise no_tower(checkpoint.spec, names)
    tower = _tower_names(family, found, names)
    inside = _connector_names(family, tower)
    processor, warnings = find_processor(checkpoint.folder, family, vision, family.geometry, resolution)
    for name in filter(family.is_projection, tower):  # the width is a field of the two-tower model
        vision.projection_dim = checkpoint.tensors[tower[name]].shape[0]
    family.say_head(vision, tower)
    return Layout(
        name="bare",
        family=family,
        config=vision,
        tower_name=vision.model_type,
        tower={name: key for name, key in tower.items() if name not in inside},
        projector=inside,
        connector=family.contained(vision) if family.contained and inside else None,
        consumed=family.last_site(vision),
        why=f"last_hidden_state of {family.tower_class.split(':')[-1]}",
        processor=processor,
        geometry=family.geometry,
        warnings=(*notes_on_places(found, usual), *warnings),
        twins=twins(found, names),
    )


def _has_text_tower(raw: Mapping[str, Any]) -> bool:
    """Return whether the configuration `raw` describes two towers, each inside it."""
    kind = raw["model_type"]
    return kind in CONFIG_MAPPING and "vision_config" in CONFIG_MAPPING[kind].sub_configs


def _tower_names(family: Family, found: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return names of the first of the towers `found`, and of the projection beside it."""
    place, *others = found
    nested = tuple(other for other in others if other.startswith(place))
    inside = [name for name in names if not name.startswith(nested)]
    outer = next((place.removesuffix(end) for end in family.outer_prefixes if place.endswith(end)), place)
    projection = {name: key for name, key in under(outer, inside).items() if family.is_projection(name)}
    return under(place, inside) | projection


def _connector_names(family: Family, tower: Mapping[str, str]) -> dict[str, str]:
    """Return names of the connector, for towers whose class contains it."""
    if family.contained is None:
        return {}
    return {name: key for name, key in tower.items() if name.split(".")[0] in family.detached}
