"""Layout of the original InternVL code (`internvl_chat`), whose configuration transformers cannot build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import InternVLConfig, InternVLVisionConfig

from visprobe.encoders.checkpoint.opened import Checkpoint
from visprobe.encoders.families.internvl import INTERNVIT, Crops, connector, selected
from visprobe.encoders.processor import Resolution, find_processor
from visprobe.encoders.structure.connector import configured
from visprobe.encoders.structure.layout import (
    Layout,
    Source,
    beside,
    block_places,
    no_projector,
    no_tower,
    notes_on_places,
    twins,
    under,
    unfused,
)
from visprobe.errors import CheckpointError

_TOWER = "vision_model."
_PROJECTOR = "mlp1."
_LAYERS = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}  # entry 2 of the original `nn.Sequential` is a GELU
_NAMES = (
    ("embeddings.class_embedding", "embeddings.cls_token"),
    ("embeddings.position_embedding", "embeddings.position_embeddings"),
    ("embeddings.patch_embedding.", "embeddings.patch_embeddings.projection."),
    ("encoder.layers.", "encoder.layer."),
    (".attn.proj.", ".attention.projection_layer."),
    (".attn.", ".attention."),
    (".ls1", ".lambda_1"),
    (".ls2", ".lambda_2"),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
)
_FUSED = re.compile(r"(.*\.attention\.)qkv\.(weight|bias)")
# Fields of the original InternVisionConfig: their defaults, and their names in transformers.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("hidden_size", 3200, "hidden_size"),
    ("intermediate_size", 12800, "intermediate_size"),
    ("num_hidden_layers", 48, "num_hidden_layers"),
    ("num_attention_heads", 25, "num_attention_heads"),
    ("num_channels", 3, "num_channels"),
    ("patch_size", 14, "patch_size"),
    ("image_size", 224, "image_size"),
    ("hidden_act", "gelu", "hidden_act"),
    ("norm_type", "rms_norm", "norm_type"),
    ("layer_norm_eps", 1e-6, "layer_norm_eps"),
    ("qkv_bias", False, "attention_bias"),
    ("qk_normalization", True, "use_qk_norm"),
    ("initializer_range", 0.02, "initializer_range"),
    ("initializer_factor", 0.1, "layer_scale_init_value"),
)


def original_internvl_layout(checkpoint: Checkpoint, resolution: Resolution) -> Layout:
    """Find the layout of a checkpoint of the original InternVL code.

    Args:
        checkpoint: Checkpoint whose config.json has the `model_type` "internvl_chat".
        resolution: Pixels per image, and whether tiles are read.

    Raises:
        CheckpointError: If tower or projector are absent or of a kind that InternVL does not have.
    """
    raw, names = checkpoint.raw, list(checkpoint.tensors)
    found = block_places("encoder.layers", [_TOWER], names)
    if not found:
        raise no_tower(checkpoint.spec, names)
    tower = under(found[0], names)
    projector = under(beside(found[0].removesuffix(_TOWER), _PROJECTOR, names), names)
    if not projector:
        raise no_projector(checkpoint.spec, names)
    config = _config(checkpoint)
    vision, layer = config.vision_config, raw.get("select_layer", -1)
    consumed = selected(layer, vision)
    tiles = _crops(raw) if resolution.tiles and raw.get("dynamic_image_size") else None
    geometry = tiles or INTERNVIT.geometry
    processor, assumed = find_processor(checkpoint.folder, INTERNVIT, vision, geometry, resolution)
    return Layout(
        name="I",
        family=INTERNVIT,
        config=vision,
        tower_name=str(_described(checkpoint).get("model_type", "intern_vit_6b")),
        tower=_tower(tower),
        projector={_linear(name): key for name, key in projector.items()},
        connector=configured(lambda config: connector(config, (consumed,)), config),
        consumed=consumed,
        why=f"select_layer is {layer} of {vision.num_hidden_layers} blocks",
        processor=processor,
        geometry=geometry,
        warnings=(
            *notes_on_places(found, [_TOWER]),
            *(tiles.notes if tiles else _untiled(raw)),
            *_notes(raw),
            *assumed,
        ),
        twins=twins(found, names),
    )


def _described(checkpoint: Checkpoint) -> Mapping[str, Any]:
    checkpoint.check_described("an internvl_chat with a tower of type None")
    vision: Mapping[str, Any] = checkpoint.raw["vision_config"]
    if vision.get("model_type", "intern_vit_6b") != "intern_vit_6b":
        raise CheckpointError(
            f"{checkpoint.spec} is an internvl_chat with a tower of type {vision.get('model_type')}",
            hint="Supported tower in original InternVL checkpoints: intern_vit_6b, which every InternViT is called.",
        )
    return vision


def _config(checkpoint: Checkpoint) -> Any:
    raw, vision = checkpoint.raw, _described(checkpoint)
    fields = {ours: vision.get(theirs, default) for theirs, default, ours in _FIELDS}
    if raw.get("force_image_size") not in (None, fields["image_size"]):
        raise CheckpointError(
            f"{checkpoint.spec} reads images of {raw['force_image_size']} pixels with positions for "
            f"{fields['image_size']}",
            hint="Checkpoints whose force_image_size is the image_size of their tower are supported.",
        )
    if fields["use_qk_norm"] and fields["layer_norm_eps"] != 1e-6:
        raise CheckpointError(
            f"{checkpoint.spec} normalises queries and keys with an epsilon of {fields['layer_norm_eps']}",
            hint="The InternViT of transformers knows only 1e-6 there; check layer_norm_eps in config.json.",
        )
    width = (raw.get("llm_config") or {}).get("hidden_size")
    try:
        return InternVLConfig(
            vision_config=InternVLVisionConfig(**fields).to_dict(),
            text_config={"model_type": "qwen2", "hidden_size": width},
            downsample_ratio=raw.get("downsample_ratio", 0.5),
        )
    except Exception as error:  # transformers raises many types on a configuration it cannot build
        raise CheckpointError(
            f"transformers cannot use the configuration of {checkpoint.spec}: {error}".splitlines()[0],
            hint="Check vision_config and llm_config in config.json.",
        ) from error


def _tower(names: Mapping[str, str]) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for name, key in names.items():
        canonical = _canonical(name)
        if fused := _FUSED.fullmatch(canonical):
            sources |= unfused(fused[1], fused[2], key)
        else:
            sources[canonical] = key
    return sources


def _canonical(name: str) -> str:
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return name


def _linear(name: str) -> str:
    place, _, kind = name.partition(".")
    return f"{_LAYERS.get(place, place)}.{kind}"


def _crops(raw: Mapping[str, Any]) -> Crops:
    return Crops(int(raw.get("min_dynamic_patch", 1)), int(raw.get("max_dynamic_patch", 6)))


def _untiled(raw: Mapping[str, Any]) -> list[str]:
    note = "only the squashed whole image is used, not the tiles that the model reads beside it"
    return [note] if raw.get("dynamic_image_size") else []


def _notes(raw: Mapping[str, Any]) -> list[str]:
    notes = []
    if raw.get("pad2square"):
        notes.append("images are squashed to a square, which the model pads to one instead")
    if raw.get("ps_version", "v1") == "v1":
        notes.append("the model reads the projected image transposed (ps_version v1); here it is in raster order")
    return notes
