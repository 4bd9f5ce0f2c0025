"""What a tower's output depends on beside its weights: the fields of its configuration that change its tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Fields of a tower's configuration that its tokens do not depend on.
_INERT = re.compile(
    r"_.*|architectures|transformers_version|dtype|torch_dtype|model_type|.*initializer.*|.*dropout.*|drop_path_rate"
    r"|projection_dim|vision_use_head|use_head|output_.*|return_dict|id2label|label2id|problem_type"
    r"|chunk_size_feed_forward|is_encoder_decoder|logit_scale_init_value|layer_scale_init_value"
    r"|layerscale_value|stage_names|out_features|out_indices|apply_layernorm|reshape_hidden_states"
)


def tower_settings(config: Any) -> dict[str, Any]:
    """The fields of the tower's configuration `config` that its tokens depend on, by name."""
    return {name: value for name, value in config.to_dict().items() if not _INERT.fullmatch(name)}


def first_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first of two encoders' settings that differs, in words, or None."""
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            return f"{name} is {theirs.get(name)} against {mine.get(name)}"
    return None
