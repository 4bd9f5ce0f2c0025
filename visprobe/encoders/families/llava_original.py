"""Checkpoints of the original LLaVA and LLaVA-NeXT code, whose tower is named but not described."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from visprobe.encoders.checkpoint import Checkpoint
from visprobe.encoders.connector import Connector
from visprobe.encoders.families.known_towers import NAMES, known_tower
from visprobe.encoders.families.squares import TOWERS
from visprobe.encoders.family import Family
from visprobe.encoders.layout import Layout, hidden_state, no_projector, no_tower, under
from visprobe.encoders.processor import default_processor, make_processor, read_processor
from visprobe.encoders.projector import chain
from visprobe.encoders.quiet import quiet
from visprobe.errors import CheckpointError

_TOWER = "model.vision_tower.vision_tower."
_PROJECTOR = "model.mm_projector."
_PROJECTOR_TYPES = re.compile(r"linear|identity|mlp\d+x_gelu")
_TOWER_OF = {model_type: family for family in TOWERS for model_type in family.model_types}


def original_layout(checkpoint: Checkpoint) -> Layout:
    """The layout of an original LLaVA checkpoint.

    Raises:
        CheckpointError: If tower or projector are absent or unknown, or the blocks are not those of the tower.
    """
    folder, raw, names = checkpoint.folder, checkpoint.raw, list(checkpoint.tensors)
    named = str(raw["mm_vision_tower"])
    outer = f"{_TOWER}vision_model." if any(n.startswith(f"{_TOWER}vision_model.") for n in names) else _TOWER
    tower = under(outer, names)
    if not tower:
        raise no_tower(folder, named, names)
    family, config = _tower(folder, named)
    _check_features(folder, raw)
    consumed, why = _consumed(folder, raw, family, config, set(tower))
    if family.name == "siglip":
        config.vision_use_head = any(name.startswith("head.") for name in tower)
    warnings = []
    if raw.get("mm_vision_select_feature") == "cls_patch" and family.has_cls:
        warnings.append("the MLLM also reads the class token; consumed and projected hold patch tokens only")
    if _is_tiled(raw):
        warnings.append("only the squashed base view of an image is used, not the tiles that the MLLM reads beside it")
    projector = _projector(folder, raw, names)
    return Layout(
        name="L",
        family=family,
        config=config,
        tower_name=named,
        tower=tower,
        projector=projector,
        connector=_connector(checkpoint, projector, config, consumed),
        consumed=consumed,
        why=why,
        processor=_processor(folder, raw, family, config),
        geometry=family.geometry,
        warnings=tuple(warnings),
    )


def _tower(folder: Path, named: str) -> tuple[Family, Any]:
    config = _described(Path(named)) or known_tower(named)
    family = _TOWER_OF.get(config.model_type) if config is not None else None
    if family is None or family.name not in {"siglip", "clip"}:
        raise CheckpointError(
            f"{folder} names the tower {named}, which visprobe does not know",
            hint=f"Known towers: {NAMES}; or let mm_vision_tower be a local folder with the config.json of a SigLIP or "
            "CLIP tower.",
        )
    return family, config


def _described(tower: Path) -> Any | None:
    if not (tower / "config.json").is_file():
        return None
    try:
        with quiet():
            config = AutoConfig.from_pretrained(tower, local_files_only=True)
    except Exception as error:  # transformers raises many types on a configuration it cannot build
        raise CheckpointError(
            f"transformers cannot read {tower / 'config.json'}: {error}".splitlines()[0],
            hint="Check the configuration of the tower that mm_vision_tower names.",
        ) from error
    return getattr(config, "vision_config", config)


def _check_features(folder: Path, raw: Mapping[str, Any]) -> None:
    if raw.get("s2") or raw.get("mm_vision_select_feature", "patch") not in {"patch", "cls_patch"}:
        raise CheckpointError(
            f"{folder} reads features of several scales or layers (s2={raw.get('s2')}, mm_vision_select_feature="
            f"{raw.get('mm_vision_select_feature')})",
            hint="Checkpoints with one scale, and mm_vision_select_feature patch or cls_patch, are supported.",
        )


def _consumed(folder: Path, raw: Mapping[str, Any], family: Family, config: Any, names: set[str]) -> tuple[str, str]:
    depth, saved = int(config.num_hidden_layers), family.block_count(names)
    if family.name == "siglip" and saved == depth - 1:
        config.num_hidden_layers = saved
        return f"block_{saved:02d}", f"LLaVA deletes the last of SigLIP's {depth} blocks and reads the one before it"
    if saved != depth:
        raise CheckpointError(
            f"{folder} holds {saved} blocks of a tower that has {depth}",
            hint="Check that mm_vision_tower names the tower of this checkpoint, and that the checkpoint is complete.",
        )
    layer = raw.get("mm_vision_select_layer")
    if not isinstance(layer, int):
        raise CheckpointError(
            f"{folder} selects vision layer {layer!r}", hint="config.json must hold one integer mm_vision_select_layer."
        )
    return hidden_state(layer, depth), f"mm_vision_select_layer is {layer} of {depth} blocks"


def _projector(folder: Path, raw: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    kind = str(raw.get("mm_projector_type", "linear"))
    if not _PROJECTOR_TYPES.fullmatch(kind):
        raise CheckpointError(
            f"{folder} has a projector of type {kind}", hint="Supported projectors are linear, mlpNx_gelu and identity."
        )
    found = under(_PROJECTOR, names)
    if not found and kind != "identity":
        raise no_projector(folder, names)
    return {_linear(name): key for name, key in found.items()}


def _connector(checkpoint: Checkpoint, projector: Mapping[str, str], config: Any, consumed: str) -> Connector | None:
    if not projector:
        return None
    entries = {name: checkpoint.tensors[key] for name, key in projector.items()}
    return chain(entries, activation="gelu", tower_width=int(config.hidden_size), reads=(consumed,))


def _linear(name: str) -> str:
    """Entry 2k of LLaVA's `nn.Sequential` is linear layer k + 1; the odd entries are activations."""
    place, _, kind = name.rpartition(".")
    if not place:
        return f"linear_1.{kind}"
    return f"linear_{int(place) // 2 + 1}.{kind}" if place.isdigit() and int(place) % 2 == 0 else name


def _is_tiled(raw: Mapping[str, Any]) -> bool:
    return str(raw.get("image_aspect_ratio")).startswith(("anyres", "highres", "crop_split"))


def _processor(folder: Path, raw: Mapping[str, Any], family: Family, config: Any) -> Any:
    """The folder's processor, or the named tower's, made to treat image shapes as LLaVA does."""
    processor = read_processor(folder) or read_processor(Path(str(raw["mm_vision_tower"])))
    processor = processor or default_processor(family.processor, int(config.image_size))
    kept = {field: getattr(processor, field) for field in ("resample", "image_mean", "image_std")}
    square = {"height": int(config.image_size), "width": int(config.image_size)}
    if raw.get("image_aspect_ratio") == "pad":
        fields = {"size": square, "do_center_crop": False, "do_pad": True, **kept}
        return make_processor("LlavaImageProcessorPil", fields)
    return make_processor("SiglipImageProcessorPil", {"size": square, **kept}) if _is_tiled(raw) else processor
