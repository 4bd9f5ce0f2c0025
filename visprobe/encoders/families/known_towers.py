"""Towers that original LLaVA checkpoints name but do not describe: their sizes, by name."""

from __future__ import annotations

import re
from typing import Any

import transformers

# Width, MLP width, blocks, heads.
_SIGLIP_SIZES = {
    "base": (768, 3072, 12, 12),
    "large": (1024, 4096, 24, 16),
    "so400m": (1152, 4304, 27, 16),
    "giant-opt": (1536, 6144, 40, 16),
}
_CLIP_SIZES = {
    "base": (768, 3072, 12, 12),
    "large": (1024, 4096, 24, 16),
    "h": (1280, 5120, 32, 16),
    "bigg": (1664, 8192, 48, 16),
}
_SIGLIP = re.compile(r"siglip2?-(base|large|so400m|giant-opt)-patch(\d+)-(\d+)(-i18n|-multilingual)?")
_CLIP = re.compile(r"clip-vit-(base|large)-patch(\d+)(?:-(\d+))?")
_LAION = re.compile(r"clip-vit-(h|bigg)-(14)-laion2b-.*")
NAMES = (
    "siglip-{base,large,so400m}-patchP-R, siglip2-{base,large,so400m,giant-opt}-patchP-R, "
    "clip-vit-{base,large}-patchP[-R], CLIP-ViT-{H,bigG}-14-laion2B-*"
)


def known_tower(name: str) -> Any | None:
    """The transformers configuration of the SigLIP or CLIP tower `name`, or None if it is not known.

    Args:
        name: Hub name or path; only its last part counts ("google/siglip-so400m-patch14-384").
    """
    last = name.rstrip("/").split("/")[-1].lower()
    if found := _SIGLIP.fullmatch(last):
        return transformers.SiglipVisionConfig(**_sizes(_SIGLIP_SIZES[found[1]], found[2], found[3]))
    if found := _CLIP.fullmatch(last):
        sizes = _sizes(_CLIP_SIZES[found[1]], found[2], found[3] or "224")
        return transformers.CLIPVisionConfig(hidden_act="quick_gelu", **sizes)
    if found := _LAION.fullmatch(last):
        return transformers.CLIPVisionConfig(hidden_act="gelu", **_sizes(_CLIP_SIZES[found[1]], found[2], "224"))
    return None


def _sizes(size: tuple[int, int, int, int], patch: str, image: str) -> dict[str, int]:
    width, mlp, blocks, heads = size
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "patch_size": int(patch),
        "image_size": int(image),
    }
