"""Sizes, by name, of towers that original LLaVA checkpoints name but do not describe."""

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
_VIT_SIZES = {"b": (768, 3072, 12, 12), "l": (1024, 4096, 24, 16), "h": (1280, 5120, 32, 16)}
# Width, blocks, heads.
_DINO_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "giant": (1536, 40, 24)}
# Width, blocks, heads, blocks that attend over the whole image.
_SAM_SIZES = {
    "b": (768, 12, 12, (2, 5, 8, 11)),
    "l": (1024, 24, 16, (5, 11, 17, 23)),
    "h": (1280, 32, 16, (7, 15, 23, 31)),
}
_SAM_SIDE = 1024
_SIGLIP = re.compile(r"siglip2?-(base|large|so400m|giant-opt)-patch(\d+)-(\d+)(-i18n|-multilingual)?")
_CLIP = re.compile(r"clip-vit-(base|large)-patch(\d+)(?:-(\d+))?")
_LAION = re.compile(r"clip-vit-(h|bigg)-(14)-laion2b-.*")
_MLCD = re.compile(r"mlcd-vit-bigg-patch(14)-(336|448)")
_DINO = re.compile(r"dinov2-(small|base|large|giant)(-imagenet1k-1-layer)?")
_TIMM = re.compile(r"(?:mae-vit-(?:h-14|l-16)|moco-vit-b-16|supervised-vit-(?:h-14|l-16)-in21k)")
_SAM = re.compile(r"sam_(?:vit_([blh])|b_downsample)")
NAMES = (
    "siglip-{base,large,so400m}-patchP-R, siglip2-{base,large,so400m,giant-opt}-patchP-R, clip-vit-{base,large}-patchP"
    "[-R], CLIP-ViT-{H,bigG}-14-laion2B-*, mlcd-vit-bigG-patch14-R, dinov2-{small,base,large,giant}[-resN][-interpM], "
    "mae-vit-{h-14,l-16}, moco-vit-b-16, supervised-vit-{h-14,l-16}-in21k, sam_vit_{b,l,h}[-interpM]"
)


def known_tower(name: str) -> Any | None:
    """Return the transformers configuration of the tower `name`, or None if it is not known.

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
    if found := _MLCD.fullmatch(last):
        return transformers.MLCDVisionConfig(**_sizes(_CLIP_SIZES["bigg"], found[1], found[2]))
    if found := _DINO.fullmatch(last):
        return _dino(found[1])
    if _TIMM.fullmatch(last):
        return _timm(last.removesuffix("-in21k"))
    if found := _SAM.fullmatch(last):
        return _sam(found[1] or "b")
    return None


def _dino(size: str) -> Any:
    width, blocks, heads = _DINO_SIZES[size]
    return transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, use_swiglu_ffn=size == "giant",
        image_size=518, patch_size=14,
    )  # fmt: skip


def _timm(name: str) -> Any:
    _, _, size, patch = name.split("-")
    return transformers.ViTConfig(layer_norm_eps=1e-6, **_sizes(_VIT_SIZES[size], patch, "224"))


def _sam(size: str) -> Any:
    width, blocks, heads, whole = _SAM_SIZES[size]
    return transformers.SamVisionConfig(
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, global_attn_indexes=whole,
        image_size=_SAM_SIDE, patch_size=16, initializer_range=0.02,
    )  # fmt: skip


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
