"""Provenance of an encoder, and the configuration fields that its output depends on beside its weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from transformers import PreTrainedConfig

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
_TOWER = "vision_config."  # excluded from a connector's settings: these are settings of the tower already
_EVERYTHING = "*"


def tower_settings(config: Any) -> dict[str, Any]:
    """Return the fields of the tower's configuration `config` that its tokens depend on, by name."""
    return {name: value for name, value in config.to_dict().items() if not _INERT.fullmatch(name)}


def connector_settings(config: Any, use: Callable[[Any], object]) -> dict[str, Any]:
    """Return the fields of a multimodal model's `config` that its connector depends on, without those of its tower.

    Args:
        config: Configuration of the model.
        use: Makes and runs the connector of the configuration that it is given.

    Returns:
        Values by dotted name.
    """
    read = fields_read(config, use).items()
    return {k: v for k, v in read if not (k.startswith(_TOWER) or _INERT.fullmatch(k.rpartition(".")[2]))}


def first_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Describe the first setting in which two encoders differ, or return None."""
    for name in sorted(mine.keys() | theirs.keys()):
        if mine.get(name) != theirs.get(name):
            return f"{name} is {theirs.get(name)} against {mine.get(name)}"
    return None


class _Watching:
    """Mixin for the class of a configuration that notes the name of every attribute that is read."""

    watch_notes: ClassVar[set[str]]
    watch_place: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Leave the class as it is; a configuration's own hook would make a dataclass of it again."""

    def __getattribute__(self, name: str) -> Any:
        cls = type(self)
        # reading __dict__ (to_dict, iteration) counts as reading every field
        own = _EVERYTHING if name == "__dict__" else getattr(cls, "attribute_map", {}).get(name, name)
        cls.watch_notes.add(cls.watch_place + own)
        return super().__getattribute__(name)

    def __getstate__(self) -> dict[str, Any]:
        """Copying is not reading: the copy takes notes too."""
        return dict(object.__getattribute__(self, "__dict__"))

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__getattribute__(self, "__dict__").update(state)


def fields_read(config: Any, use: Callable[[Any], object]) -> dict[str, Any]:
    """Return the fields of `config` that `use` reads, with their values as plain JSON.

    Args:
        config: Configuration of transformers; it is not changed.
        use: Called once with a copy of `config`. If it fails, what it would have read is unknown: every field counts.

    Returns:
        Values by name, those of a configuration inside another one by dotted name ("text_config.rms_norm_eps").
    """
    notes: set[str] = set()
    try:
        use(_watching(config, "", notes))
    except Exception:  # any type: `use` runs foreign code
        notes.add(_EVERYTHING)
    whole = tuple(note.removesuffix(_EVERYTHING) for note in notes if note.endswith(_EVERYTHING))
    return {name: value for name, value in _fields(config, "") if name in notes or name.startswith(whole)}


def _watching(config: Any, place: str, notes: set[str]) -> Any:
    """Copy `config`, at the dotted name `place` with its dot, so that it adds to `notes`."""
    kind = type(config)
    watched = copy.copy(config)
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            vars(watched)[name] = _watching(value, f"{place}{name}.", notes)
    # changing the class of the copy keeps its fields, so every read passes through _Watching
    watched.__class__ = type(kind.__name__, (_Watching, kind), {"watch_notes": notes, "watch_place": place})
    return watched


def _fields(config: Any, place: str) -> Iterator[tuple[str, Any]]:
    plain = config.to_dict()
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _fields(value, f"{place}{name}.")
        elif name in plain:
            yield place + name, plain[name]


@dataclass(frozen=True)
class Provenance:
    """Record of the files that were read and how they were interpreted.

    Attributes:
        path: Checkpoint folder or hub id as given.
        commit: Commit that was read, for a checkpoint of the hub.
        family: Family of the tower ("siglip").
        layout: On-disk layout ("A", "B", "C", "D": LLaVA of transformers; "L": original LLaVA; "bare").
        tower: Name of the tower where the checkpoint tells it, else the `model_type` of its configuration.
        dtype: Stored dtype or dtypes of tower and projector.
        params: Number of weights of tower and projector.
        bytes_read: Bytes read from the weight files, headers included.
        consumed: Site that the MLLM reads.
        why: Reason for that site.
        off_path: Weight groups that the MLLM's loss never reaches.
        warnings: Warnings for the reader.
    """

    path: str
    family: str
    layout: str
    tower: str
    dtype: str
    params: int
    bytes_read: int
    consumed: str
    why: str
    off_path: tuple[str, ...]
    warnings: tuple[str, ...]
    commit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as plain JSON values."""
        return asdict(self)
