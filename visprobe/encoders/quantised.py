"""Quantised weights: told by their names and types from headers, so that nobody looks for another fault."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from visprobe.errors import CheckpointError
from visprobe.io.tensors import DTYPES, TensorEntry

# What stands beside a weight or in place of it, and the library that leaves it there.
_MARKS = (
    (r"\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state\..*)", "bitsandbytes, 4 bits"),
    (r"\.(SCB|weight_format)", "bitsandbytes, 8 bits"),
    (r"\.(weight_packed|weight_shape|weight_zero_point|weight_g_idx)", "compressed-tensors"),
    (r"\.(weight_scale_inv|activation_scale)", "FP8"),
    (r"\.(weight_scale|input_scale)", "scaled FP8 or INT8"),
    (r"\.(qweight|qzeros|g_idx)", "GPTQ or AWQ"),
    (r"\.(W_q|meta)(\..*)?", "HQQ"),
    (r"\.weight\.?_(data|scale|qdata|zero_point|zero).*", "Quanto or torchao"),
    (r"\.weight_scales", "EETQ"),
    (r"\.scales", "MLX, GPTQ or AWQ"),
)
_MARK = tuple((re.compile(f".*{pattern}"), scheme) for pattern, scheme in _MARKS)
_BY_NAME = re.compile(
    r"(?P<origin>.+?)[-_](?:unsloth[-_])?(?:(?:bnb[-_])?[48]-?bit|awq|gptq(?:-int[348])?|int[48]|fp8(?:-dynamic)?|nf4"
    r"|w[48]a\d+|quantized\.w\w+)(?:[-_]mlx)?",
    re.IGNORECASE,
)
_ORIGIN_FIELDS = ("base_model", "base_model_name_or_path", "model_name_or_path", "original_model", "_name_or_path")


def scheme_of(raw: Mapping[str, Any], entries: Iterable[TensorEntry]) -> str | None:
    """How the weights `entries` are quantised, in words, or None if they are not.

    Args:
        raw: config.json, whose `quantization_config` names the method best.
        entries: Tensors of tower and connector; what a configuration says of the language model counts for nothing.
    """
    marked = [next((scheme for mark, scheme in _MARK if mark.fullmatch(e.name)), None) for e in entries]
    narrow = [entry.dtype for entry in entries if not is_float(entry) and entry.name.endswith(("weight", "bias"))]
    if not any(marked) and not narrow:
        return None
    told = raw.get("quantization_config")
    method = str(told.get("quant_method") or "") if isinstance(told, Mapping) else ""
    detail = str(told.get("bnb_4bit_quant_type") or told.get("format") or "") if isinstance(told, Mapping) else ""
    return ", ".join(filter(None, (method, detail))) or next(filter(None, marked), f"stored as {'+'.join(set(narrow))}")


def origin_of(raw: Mapping[str, Any], spec: str) -> str:
    """The 16-bit checkpoint that a quantised one was made from, as a clause for a message; empty if nothing says so.

    Args:
        raw: config.json of the quantised checkpoint.
        spec: Its name.
    """
    told = raw.get("quantization_config")
    fields = {**raw, **(told if isinstance(told, Mapping) else {})}
    named = next((str(fields[name]) for name in _ORIGIN_FIELDS if fields.get(name)), "")
    if named and named.rstrip("/") != spec.rstrip("/") and not _BY_NAME.fullmatch(named):
        return f", {named} by its config.json"
    if guess := _BY_NAME.fullmatch(named or spec):
        return f", to judge by its name {guess['origin']}"
    return ""


def check_whole(spec: str, base: str, raw: Mapping[str, Any], entries: Iterable[TensorEntry]) -> None:
    """The weights `entries` are floating-point numbers of 16 or more bits.

    Args:
        spec: The checkpoint, for messages.
        base: Its base model, if it is an adapter.
        raw: config.json.
        entries: Tensors of tower and connector.

    Raises:
        CheckpointError: If they are quantised.
    """
    entries = list(entries)
    scheme = scheme_of(raw, entries)
    if scheme is None:
        return
    if base:
        raise CheckpointError(
            f"{spec} is an adapter of {base}, and that base is quantised in tower or projector ({scheme}): an adapter "
            "is merged into weights of 16 or more bits",
            hint=f"Put the 16-bit model{origin_of(raw, base)} into base_model_name_or_path of its adapter_config.json.",
        )
    raise CheckpointError(
        f"the vision tower or projector of {spec} is quantised ({scheme})",
        hint=f"Give the 16-bit checkpoint that it was made from{origin_of(raw, spec)}.",
    )


def is_float(entry: TensorEntry) -> bool:
    """Whether a tensor is of floating-point numbers of 16 or more bits."""
    dtype = DTYPES.get(entry.dtype)
    return dtype is not None and dtype.is_floating_point and dtype.itemsize > 1
