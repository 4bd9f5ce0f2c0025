"""What a weight of a vision tower does: query, key, value, MLP, norm, embedding, whatever its family calls it."""

from __future__ import annotations

import re

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
_FUSED = re.compile(r"(?:.*\.)?qkv\.(?:weight|bias)")
_QKV = ("attention_q", "attention_k", "attention_v")
# The first that is found decides: "k_norm" is a norm, "class_pos_emb" a position.
_RULES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(?:input|output)_(?:min|max)$", "clip_range"),
        (r"lambda_?\d*$|(?:^|\.)gate(?:_attn|_ffn)?$", "scale"),
        (r"norm|(?:^|\.)ln_", "norm"),
        (r"pos_emb|position|rel_pos|tile_embedding", "position_embedding"),
        (r"cls_token|class_embedding|register_tokens|mask_token", "class_token"),
        (r"patch_?(?:emb|conv)", "patch_embedding"),
        (r"(?:^|\.)q_proj\.", "attention_q"),
        (r"(?:^|\.)k_proj\.", "attention_k"),
        (r"(?:^|\.)v_proj\.", "attention_v"),
        (r"(?:^|\.)(?:o_proj|out_proj|projection_layer|attn\.proj)\.", "attention_out"),
        (r"(?:^|\.)gate_proj\.", "mlp_gate"),
        (r"(?:^|\.)(?:up_proj|(?:linear_)?fc1|lin1)\.", "mlp_in"),
        (r"(?:^|\.)(?:down_proj|(?:linear_)?fc2|lin2)\.", "mlp_out"),
    )
)


def tensor_class(name: str, group: str) -> str:
    """The class of a weight, one of `CLASSES`.

    Args:
        name: Its canonical name; of one that holds query, key and value together, see `by_class`.
        group: Its weight group (`VisionEncoder.weight_group`).
    """
    if group in ("head", "projector"):
        return group
    return next((found for pattern, found in _RULES if pattern.search(name)), "other")


def by_class(name: str, group: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """A weight as (class, part): itself, or its query, key and value parts where one tensor holds all three.

    Args:
        name: Its canonical name.
        group: Its weight group.
        tensor: The weight; fused ones have the three parts one after another along the first axis.
    """
    if group not in ("head", "projector") and _FUSED.fullmatch(name):
        return list(zip(_QKV, tensor.chunk(3), strict=True))
    return [(tensor_class(name, group), tensor)]
