"""The families of vision tower: where their blocks, norms and prefix tokens are in the transformers classes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
import transformers


@dataclass(frozen=True)
class Family:
    """How one family of towers is built in transformers.

    Attributes:
        name: "siglip", "clip", "dinov2", "dinov2_with_registers" or "vit".
        model_types: `model_type` values whose tower is of this family.
        tower_class: Name of the class in transformers.
        blocks: Attribute path of the list of blocks.
        norm: Attribute of the last norm.
        norm_on_tokens: Whether that norm is applied to every token; CLIP applies it to its class token only.
        head: Attribute of the pooling head, if the family has one.
        has_cls: Whether a class token comes first.
        outer_prefixes: What may stand before a tensor's name in a checkpoint of the bare model.
    """

    name: str
    model_types: tuple[str, ...]
    tower_class: str
    blocks: str
    norm: str
    norm_on_tokens: bool
    head: str | None
    has_cls: bool
    outer_prefixes: tuple[str, ...]

    def prefix_tokens(self, config: Any) -> int:
        """How many tokens (class token, registers) stand before the patch tokens."""
        return int(self.has_cls) + int(getattr(config, "num_register_tokens", 0))

    def build(self, config: Any, names: set[str]) -> torch.nn.Module:
        """A tower with fresh weights that has the parts whose tensor `names` are given."""
        return self.without_absent(self.cls(config, **self.options(names)), names)

    @property
    def cls(self) -> Any:
        """The class in transformers."""
        return getattr(transformers, self.tower_class)

    def options(self, names: set[str]) -> dict[str, bool]:
        """Arguments of the class that depend on which tensors there are."""
        return {"add_pooling_layer": self._has(self.head, names)} if self.name == "vit" else {}

    def without_absent(self, tower: torch.nn.Module, names: set[str]) -> torch.nn.Module:
        """`tower`, its last norm left out where a checkpoint whose MLLM never reads that norm did not save it."""
        if not self._has(self.norm, names):
            setattr(tower, self.norm, torch.nn.Identity())
        return tower

    def block_count(self, names: set[str]) -> int:
        """One more than the highest block number in `names` (0 without blocks)."""
        return max((int(m[1]) + 1 for m in map(self._block_pattern().match, names) if m), default=0)

    def weight_group(self, name: str) -> str:
        """The group of a canonical tensor name: "embeddings", "block_07", "final_norm" or "head"."""
        if found := self._block_pattern().match(name):
            return f"block_{int(found[1]) + 1:02d}"
        part = name.split(".")[0]
        return {self.norm: "final_norm", self.head: "head"}.get(part, "embeddings")

    def _block_pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.blocks) + r"\.(\d+)\.")

    @staticmethod
    def _has(part: str | None, names: set[str]) -> bool:
        return any(name.startswith(f"{part}.") for name in names)


_SIGLIP = ("siglip_vision_model", "siglip")
_CLIP = ("clip_vision_model", "clip")
FAMILIES = (
    Family(
        "siglip",
        _SIGLIP,
        "SiglipVisionModel",
        "encoder.layers",
        "post_layernorm",
        True,
        "head",
        False,
        ("vision_model.",),
    ),
    Family("clip", _CLIP, "CLIPVisionModel", "encoder.layers", "post_layernorm", False, None, True, ("vision_model.",)),
    Family("dinov2", ("dinov2",), "Dinov2Model", "encoder.layer", "layernorm", True, None, True, ("dinov2.",)),
    Family(
        "dinov2_with_registers",
        ("dinov2_with_registers",),
        "Dinov2WithRegistersModel",
        "encoder.layer",
        "layernorm",
        True,
        None,
        True,
        ("dinov2_with_registers.",),
    ),
    Family("vit", ("vit",), "ViTModel", "layers", "layernorm", True, "pooler", True, ("vit.",)),
)
FAMILY_OF = {model_type: family for family in FAMILIES for model_type in family.model_types}
