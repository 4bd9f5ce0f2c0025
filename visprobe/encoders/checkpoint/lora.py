"""Merging of LoRA and DoRA into weights, in the dtypes and the order of PEFT's `merge_and_unload`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from visprobe.errors import CheckpointError

_MERGE = "Merge it with PEFT (model.merge_and_unload()), save the result and give that."
# These change the base weights before training, so that the adapter does not fit the base model as it is stored.
_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
_VARIANTS = (
    "use_qalora", "arrow_config", "alora_invocation_tokens", "velora_config", "monteclora_config", "mica",
    "kasa_config", "layer_replication",
)  # fmt: skip
_LONGEST_PATTERN, _MOST_REPEATED = 1000, 3  # names of modules have some hundred characters
_REPEATED = re.compile(r"[*+]|\{\d*,\d*\}")
_NESTED = re.compile(r"\)[*+{]")  # a repeated group: repetition inside it may take exponential time
_CONV = {4: functional.conv2d, 5: functional.conv3d}


@dataclass(frozen=True)
class LoraSettings:
    """Scaling settings of adapter_config.json.

    Attributes:
        where: File name for messages.
        rank: Rank where no pattern says otherwise.
        alpha: Numerator of the scaling where no pattern says otherwise.
        rank_stabilised: True if alpha is divided by the root of the rank instead of the rank.
        ranks: Rank by pattern of module names.
        alphas: Alpha by pattern of module names.
    """

    where: str
    rank: int
    alpha: float
    rank_stabilised: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def scaling(self, module: str, rank: int) -> float:
        """Return the factor of B·A in `module`.

        Args:
            module: Name of the module as the adapter spells it.
            rank: Rank of its matrices.

        Raises:
            CheckpointError: If the configuration gives the module another rank.
        """
        configured = _by_pattern(self.ranks, module, self.rank)
        if configured != rank:
            raise CheckpointError(
                f"{self.where} gives {module} the rank {configured}, its matrices have the rank {rank}",
                hint="Check that this file belongs to these weights.",
            )
        alpha = float(_by_pattern(self.alphas, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def lora_settings(config: Mapping[str, Any], where: str) -> LoraSettings:
    """Read the settings in an adapter's configuration.

    Args:
        config: Content of adapter_config.json.
        where: File name for messages.

    Raises:
        CheckpointError: If it is no LoRA or DoRA, a variant that changes more than B·A, or damaged.
    """
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise CheckpointError(f"{where} describes an adapter of type {kind}, only LORA is merged here", hint=_MERGE)
    initial = str(config.get("init_lora_weights", True)).lower()
    variants = [name for name in _VARIANTS if config.get(name)]
    if initial.startswith(_CHANGES_BASE) or initial == "mica":
        variants.append(f"init_lora_weights={initial}")
    if variants:
        raise CheckpointError(f"{where} describes a LoRA with {', '.join(variants)}, which changes more", hint=_MERGE)
    try:
        settings = LoraSettings(
            where,
            rank=_positive(config.get("r", 8)),
            alpha=_number(config.get("lora_alpha", 8)),
            rank_stabilised=bool(config.get("use_rslora")),
            ranks={_pattern(key): _positive(value) for key, value in (config.get("rank_pattern") or {}).items()},
            alphas={_pattern(key): _number(value) for key, value in (config.get("alpha_pattern") or {}).items()},
        )
    except (ValueError, TypeError, AttributeError, OverflowError, re.error) as error:
        raise CheckpointError(f"{where} is damaged: {error}", hint="Copy it again from the adapter.") from error
    return settings


def merged(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float, magnitude: torch.Tensor | None
) -> torch.Tensor:
    """Merge a LoRA or DoRA into `weight`, in its own dtype.

    Args:
        weight: Weight of a linear layer (out, in) or a convolution (out, in, *kernel).
        a: Matrix A, (r, in) or (r, in, *kernel).
        b: Matrix B, (out, r) or (out, r, 1, …).
        scaling: Factor of B·A.
        magnitude: DoRA's magnitudes with `out` elements, or None.

    Returns:
        W + scaling · B·A in the dtype of `weight`; with magnitudes each row of it scaled to its magnitude.

    Raises:
        RuntimeError: If the shapes do not fit each other.

    Source: Hu et al. 2021 (LoRA) eq. 3; Liu et al. 2024 (DoRA) eq. 5.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)  # PEFT loads adapters in float32 and adds in float32
    a, b = a.to(dtype), b.to(dtype)
    delta = (b @ a if weight.dim() == 2 else _convolved(a, b, weight)) * scaling
    _check_shape(delta, weight)
    if magnitude is None:
        return (weight.to(dtype) + delta).to(weight.dtype)
    # DoRA scales each row of W + delta to its magnitude; the norm runs over all but the output dimension
    total = weight + delta
    norm: torch.Tensor = total.norm(p=2, dim=tuple(range(1, total.dim())), keepdim=True)
    factor = magnitude.to(dtype).view(-1, *(1,) * (weight.dim() - 1)) / norm
    return (factor * total).to(weight.dtype)


def merged_embedding(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """Merge a LoRA of A (r, n) and B (D, r) into the embedding `weight` (n, D), in its own dtype.

    Raises:
        RuntimeError: If the shapes do not fit each other.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    delta = (b.to(dtype) @ a.to(dtype)).T * scaling
    _check_shape(delta, weight)
    return weight + delta.to(weight.dtype)  # unlike for other layers, PEFT rounds before it adds


def _convolved(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if weight.dim() not in _CONV:
        raise RuntimeError(f"a LoRA of a weight of shape {list(weight.shape)}")
    # B·A of convolutions as PEFT computes it: a product for 1x1 kernels, else a convolution of A by B
    if weight.dim() == 4 and weight.shape[2:] == (1, 1):
        return (b.squeeze(3).squeeze(2) @ a.squeeze(3).squeeze(2)).unsqueeze(2).unsqueeze(3)
    return _CONV[weight.dim()](a.transpose(0, 1), b).transpose(0, 1)


def _check_shape(delta: torch.Tensor, weight: torch.Tensor) -> None:
    if delta.shape != weight.shape:
        raise RuntimeError(f"B·A has shape {list(delta.shape)}, the weight {list(weight.shape)}")


def _by_pattern(values: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _pattern(value: Any) -> str:
    """Check a key that PEFT takes as a regular expression of module names; some expressions take exponential time."""
    text = str(value)
    if len(text) > _LONGEST_PATTERN or len(_REPEATED.findall(text)) > _MOST_REPEATED or _NESTED.search(text):
        raise ValueError(f"the pattern {text[:80]!r} could take hours to compare")
    re.compile(rf"(.*\.)?({text})$")
    return text


def _positive(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"a rank of {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"an alpha of {value!r}")
    return value
