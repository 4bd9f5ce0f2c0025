"""Detection of quantised weights by names and dtypes in headers, for an error that names the scheme."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from visprobe.errors import CheckpointError
from visprobe.io.containers.safetensors_files import INDEX_FILE, SINGLE_FILE
from visprobe.io.containers.tensors import TensorEntry

# Names that a scheme stores beside a weight or in place of it; the first match names the scheme.
_MARKS = (
    (r"quant_state\.bitsandbytes__nf4", "bitsandbytes, 4 bit, nf4"),
    (r"quant_state\.bitsandbytes__fp4", "bitsandbytes, 4 bit, fp4"),
    (r"(nested_)?(absmax|quant_map)", "bitsandbytes, 4 bit"),
    (r"SCB|weight_format", "bitsandbytes, 8 bit"),
    (r"weight_packed", "compressed-tensors"),
    (r"weight_scale_inv", "FP8"),
    (r"weight_scale_2", "ModelOpt"),
    (r"_?weight(:|_)_?(qdata|data)", "torchao"),
    (r"W_q", "HQQ"),
    (r"weight\._(data|scale)", "Quanto"),
    (r"qweight|qzeros", "GPTQ or AWQ"),
    (r"weight_scales", "EETQ"),
    (r"codes|codebooks", "AQLM"),
    (r"biases", "MLX"),
)
_MARK = tuple((re.compile(rf"(.*\.)?({pattern})"), scheme) for pattern, scheme in _MARKS)
_METHODS = {
    "gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8", "fbgemm_fp8": "FBGEMM FP8", "quanto": "Quanto", "eetq": "EETQ",
    "hqq": "HQQ", "mxfp4": "MXFP4", "nvfp4": "NVFP4", "modelopt": "ModelOpt", "aqlm": "AQLM", "vptq": "VPTQ",
    "higgs": "HIGGS", "bitnet": "BitNet", "spqr": "SpQR", "quark": "Quark", "auto-round": "AutoRound", "mlx": "MLX",
}  # fmt: skip
_FLOATS = {"F64", "F32", "F16", "BF16"}
_BUFFERS = {"I64", "U64", "BOOL"}  # position ids, counters and masks; no scheme keeps weights in them
_BY_NAME = re.compile(
    r"(?P<origin>.+?)[-_](?:unsloth[-_])?(?:(?:bnb[-_])?[48]-?bit|awq|gptq(?:-int[348])?|int[48]|fp8(?:-dynamic)?|nf4"
    r"|w[48]a\d+|quantized\.w\w+)(?:[-_]mlx)?",
    re.IGNORECASE,
)
_ORIGIN_FIELDS = ("base_model", "base_model_name_or_path", "model_name_or_path", "original_model", "_name_or_path")


def scheme_of(raw: Mapping[str, Any], entries: Iterable[TensorEntry]) -> str | None:
    """Name the quantisation scheme of the weights `entries`, or return None if they are not quantised.

    Args:
        raw: Content of config.json, whose `quantization_config` names the method best.
        entries: Tensors of tower and connector; what a configuration says of the language model counts for nothing.
    """
    found = list(entries)
    if not (narrow := _narrow(found)):
        return None
    by_names = next((scheme for mark, scheme in _MARK if any(mark.fullmatch(entry.name) for entry in found)), "")
    kinds = sorted({entry.dtype for entry in narrow})
    return _named(_settings(raw), by_names) or f"stored as {', '.join(kinds)}"


def origin_of(raw: Mapping[str, Any], spec: str) -> str:
    """Name the 16-bit checkpoint that a quantised one was made from, as a clause for a message; empty if unknown.

    Args:
        raw: Content of config.json of the quantised checkpoint.
        spec: Name of the quantised checkpoint.
    """
    fields = {**raw, **_settings(raw)}
    named = next((str(fields[name]) for name in _ORIGIN_FIELDS if fields.get(name)), "")
    if named and named.rstrip("/") != spec.rstrip("/") and not _BY_NAME.fullmatch(named):
        return f", {named} by its config.json"
    if guess := _BY_NAME.fullmatch(named or spec):
        return f", to judge by its name {guess['origin']}"
    return ""


def check_whole(spec: str, base: str, raw: Mapping[str, Any], entries: Iterable[TensorEntry]) -> None:
    """Check that the weights `entries` are floating-point numbers of 16 or more bits.

    Args:
        spec: Checkpoint, for messages.
        base: Base model, if the checkpoint is an adapter.
        raw: Content of config.json.
        entries: Tensors of tower and connector.

    Raises:
        CheckpointError: If they are quantised.
    """
    found = list(entries)
    scheme = scheme_of(raw, found)
    if scheme is None:
        return
    narrow = _narrow(found)
    which = f"{len(narrow)} of {len(found)} tensors, {narrow[0].name} among them"
    if base:
        raise CheckpointError(
            f"{spec} is an adapter of {base}, and that base is quantised in tower or projector ({scheme}): {which}",
            hint="An adapter is merged into weights of 16 or more bits: put the 16-bit model"
            f"{origin_of(raw, base)} into base_model_name_or_path of its adapter_config.json.",
        )
    raise CheckpointError(
        f"the vision tower or projector of {spec} is quantised ({scheme}): {which}",
        hint=f"Give the 16-bit checkpoint that it was made from{origin_of(raw, spec)}.{_beside_shards(narrow[0].file)}",
    )


def _beside_shards(file: str) -> str:
    """Return a hint if `file` is read, as transformers does, before the shards of an index beside it."""
    path = Path(file)
    if path.name != SINGLE_FILE or not path.with_name(INDEX_FILE).is_file():
        return ""
    return f" Or move {SINGLE_FILE} away: transformers reads it before the shards of {INDEX_FILE} beside it."


def is_float(entry: TensorEntry) -> bool:
    """Return whether a tensor holds floating-point numbers of 16 or more bits."""
    return entry.dtype in _FLOATS


def _narrow(entries: Iterable[TensorEntry]) -> list[TensorEntry]:
    """Return entries of weights in integers or in fewer than 16 bits; every scheme has some."""
    return [entry for entry in entries if not is_float(entry) and entry.dtype not in _BUFFERS]


def _settings(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return quantisation settings of the configuration or of one of its parts."""
    parts = [raw, *(raw.get(name) for name in ("vision_config", "text_config", "llm_config"))]
    keys = ("quantization_config", "quantization")  # the second is MLX's
    told = [part.get(key) for part in parts if isinstance(part, Mapping) for key in keys]
    return next((settings for settings in told if isinstance(settings, Mapping) and settings), {})


def _named(settings: Mapping[str, Any], by_names: str) -> str:
    """Name the scheme: its method as configured, with details of settings or tensors."""
    method = str(settings.get("quant_method") or ("mlx" if {"group_size", "bits"} <= set(settings) else "")).lower()
    name = _METHODS.get(method, method)
    if not name or by_names.startswith(f"{name},"):
        return by_names
    bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else settings.get("bits")
    details = [settings.get(key) for key in ("bnb_4bit_quant_type", "format", "fmt", "quant_algo", "quant_type")]
    return ", ".join([name, *([f"{bits} bit"] if bits else []), *(str(detail) for detail in details if detail)])
