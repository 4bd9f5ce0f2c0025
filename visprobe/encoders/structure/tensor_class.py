"""Classes of a vision tower's weights: query, key, value, MLP, norm, embedding, whatever a family names them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# From the input to the output of a tower; "head" and "projector" are whole groups of weights.
CLASSES = (
    "patch_embedding",
    "position_embedding",
    "class_token",
    "attention_q",
    "attention_k",
    "attention_v",
    "attention_out",
    "mlp_in",
    "mlp_gate",
    "mlp_out",
    "norm",
    "scale",
    "other",
    "clip_range",
    "head",
    "projector",
)
_FUSED = "attention_qkv"  # one tensor holds query, key and value
_QKV = ("attention_q", "attention_k", "attention_v")
# Names that most towers of transformers share. The first match decides: "k_norm" is a norm.
_USUAL = {
    r"(?:input|output)_(?:min|max)$": "clip_range",
    r"lambda_?\d*$": "scale",
    r"norm|(?:^|\.)ln_": "norm",
    r"pos_emb|position": "position_embedding",
    r"cls_token|class_embedding|register_tokens|mask_token": "class_token",
    r"patch_?(?:emb|conv)": "patch_embedding",
    r"(?:^|\.)qkv\.(?:weight|bias)$": _FUSED,
    r"(?:^|\.)q_proj\.": "attention_q",
    r"(?:^|\.)k_proj\.": "attention_k",
    r"(?:^|\.)v_proj\.": "attention_v",
    r"(?:^|\.)(?:o_proj|out_proj|attn\.proj)\.": "attention_out",
    r"(?:^|\.)gate_proj\.": "mlp_gate",
    r"(?:^|\.)(?:up_proj|fc1)\.": "mlp_in",
    r"(?:^|\.)(?:down_proj|fc2)\.": "mlp_out",
}


def tensor_class(name: str, group: str, own: Mapping[str, str] | None = None) -> str:
    """Return the class of a weight: one of `CLASSES`, or "attention_qkv" for a fused query, key and value.

    Args:
        name: Canonical name.
        group: Weight group (`VisionEncoder.weight_group`).
        own: Names of the family, as regular expressions to classes; they are tried first.
    """
    if group in ("head", "projector"):
        return group
    rules = {**(own or {}), **_USUAL}
    return next((kind for pattern, kind in rules.items() if re.search(pattern, name)), "other")


def by_class(kind: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Split a weight of class `kind` into (class, part): itself, or the query, key and value stacked in its rows."""
    return list(zip(_QKV, tensor.chunk(3), strict=True)) if kind == _FUSED else [(kind, tensor)]
