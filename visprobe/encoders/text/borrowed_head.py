"""Pooling head of a two-tower model, lent to a tower of its shape whose checkpoint dropped its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from visprobe.encoders.checkpoint.hashing import tensors_hash
from visprobe.encoders.structure.geometry import Tiled

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

_SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True, eq=False)
class BorrowedHead:
    """Norm and head that pool an image into its embedding, with weights of another checkpoint.

    Attributes:
        origin: Name of that checkpoint, for the reader.
        modules: Attribute of the tower to the module that replaces it.
    """

    origin: str
    modules: Mapping[str, torch.nn.Module]

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        weights = {f"{part}.{k}": w for part, module in self.modules.items() for k, w in module.state_dict().items()}
        return tensors_hash(weights)

    def on(self, tower: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
        """Change `tower` in place so that its class pools images with these modules."""
        for part, module in self.modules.items():
            setattr(tower, part, copy.deepcopy(module).to(device, dtype))
        vars(tower)["use_head"] = True  # SigLIP's class checks this attribute
        return tower


def misfit(encoder: VisionEncoder, donor: VisionEncoder) -> str | None:
    """Return why the head of `donor` cannot pool the tokens of `encoder`; None if it can."""
    if not donor.embeds:
        return f"{donor.name} holds none either"
    if isinstance(encoder.geometry, Tiled):
        return "an image in tiles has no embedding of its own"
    if encoder.family.name != donor.family.name:
        return f"that of {donor.name} is of another family of towers"
    own, other = encoder.config, donor.config
    if different := [name for name in _SHAPE if getattr(own, name, None) != getattr(other, name, None)]:
        return (
            f"that of {donor.name} is of another tower ({different[0]} {getattr(own, different[0], None)} against "
            f"{getattr(other, different[0], None)})"
        )
    return None


def with_head_of(encoder: VisionEncoder, donor: VisionEncoder) -> VisionEncoder:
    """Return `encoder` with the norm and head of `donor` to pool its "embedding"; its weights stay what they are.

    If its checkpoint holds the whole last norm, that is used and not the donor's.

    Args:
        encoder: Encoder without pooling head.
        donor: Encoder for which `misfit` returns None.
    """
    parts = [part for part in (donor.family.norm, donor.family.head) if part]
    modules = {part: donor.tower.get_submodule(part) for part in parts}
    return encoder.with_head(BorrowedHead(Path(donor.provenance.path).name, modules))
