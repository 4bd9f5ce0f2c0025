"""Vision transformers of timm, read as transformers' ViT."""

from __future__ import annotations

import re
from collections.abc import Mapping

from visprobe.encoders.structure.layout import Source, unfused

_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_INSIDE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def from_timm(saved: Mapping[str, str]) -> dict[str, Source]:
    """Return weights of transformers' ViT by name, given those of timm's; a classifier on top is left out.

    Args:
        saved: Names in timm's class to names in the file.
    """
    sources: dict[str, Source] = {}
    for name, key in saved.items():
        if block := _BLOCK.fullmatch(name):
            sources |= _in_block(f"layers.{block[1]}.", block[2], block[3], key)
        elif not name.startswith("head."):
            place, _, kind = name.rpartition(".")
            sources[_OUTSIDE.get(name) or f"{_OUTSIDE.get(place, place)}.{kind}"] = key
    return sources


def _in_block(block: str, place: str, kind: str, key: str) -> dict[str, Source]:
    if place != "attn.qkv":
        return {f"{block}{_INSIDE.get(place, place)}.{kind}": key}
    return unfused(f"{block}attention.", kind, key)
