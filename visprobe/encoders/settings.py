"""What an encoder's output depends on beside its weights: the fields of its configuration that change its tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from visprobe.encoders.checkpoint.fields_read import fields_read

# Fields of a configuration that no token depends on, wherever they stand.
_INERT = re.compile(
    r"_.*|architectures|transformers_version|dtype|torch_dtype|model_type|.*initializer.*|.*dropout.*|drop_path_rate"
    r"|projection_dim|vision_use_head|use_head|output_.*|return_dict|id2label|label2id|problem_type"
    r"|chunk_size_feed_forward|is_encoder_decoder|logit_scale_init_value|layer_scale_init_value"
    r"|layerscale_value|stage_names|out_features|out_indices|apply_layernorm|reshape_hidden_states"
    # of training, of attention's implementation, and of language models, which old configurations give to towers too
    r"|use_cache|gradient_checkpointing|use_flash_attn|use_bfloat16|torchscript|name_or_path|auto_map|tie_.*|pruned_heads"
    r"|vocab_size|(bos|eos|pad|sep|decoder_start|forced_bos|forced_eos)_token_id|temperature|top_[kp]|typical_p"
    r"|num_beam.*|(min|max)_length|length_penalty|repetition_penalty|.*no_repeat_ngram_size|bad_words_ids|do_sample"
    r"|early_stopping|diversity_penalty|num_return_sequences|.*cross_attention.*|is_decoder|finetuning_task"
    r"|begin_suppress_tokens|suppress_tokens|remove_invalid_values|exponential_decay_length_penalty|prefix"
    r"|task_specific_params|tf_legacy_loss|tokenizer_class|encoder_no_repeat_ngram_size|quantization_config"
)
_TOWER = "vision_config."  # what stands there is a setting of the tower already


def tower_settings(config: Any) -> dict[str, Any]:
    """The fields of the tower's configuration `config` that its tokens depend on, by name."""
    return {name: value for name, value in config.to_dict().items() if not _INERT.fullmatch(name)}


def connector_settings(config: Any, use: Callable[[Any], object]) -> dict[str, Any]:
    """The fields of a multimodal model's `config`, but for those of its tower, that its connector depends on.

    Args:
        config: Configuration of the model.
        use: Makes and runs the connector of the configuration that it is given.

    Returns:
        Values by dotted name.
    """
    read = fields_read(config, use).items()
    return {k: v for k, v in read if not (k.startswith(_TOWER) or _INERT.fullmatch(k.rpartition(".")[2]))}


def first_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first of two encoders' settings that differs, in words, or None."""
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            return f"{name} is {theirs.get(name)} against {mine.get(name)}"
    return None
