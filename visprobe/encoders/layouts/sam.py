"""Tower of SAM as original LLaVA reads it: the last block, without the neck."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from visprobe.encoders.pixels import Pixels
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, View

_NAMES = (
    (re.compile(r"patch_embed\.proj\."), "patch_embed.projection."),
    (re.compile(r"blocks\.(\d+)\.norm([12])\."), r"layers.\1.layer_norm\2."),
    (re.compile(r"blocks\."), "layers."),
    (re.compile(r"neck\.0\."), "neck.conv1."),
    (re.compile(r"neck\.1\."), "neck.layer_norm1."),
    (re.compile(r"neck\.2\."), "neck.conv2."),
    (re.compile(r"neck\.3\."), "neck.layer_norm2."),
)
# Parts of DeepSeek-VL's variant of the class, which LLaVA's forward never calls.
_UNUSED = ("downsamples.", "neck_hd.", "hd_alpha_downsamplers")


class SamGeometry(Geometry):
    """Geometry of square pixels whose hidden states are (B, rows, columns, D), without prefix tokens."""

    def views(self, state: torch.Tensor, pixels: Pixels, tower: torch.nn.Module) -> list[View]:
        """Flatten rows and columns of a hidden state to tokens in raster order."""
        return [(state.flatten(1, 2), pixels.grids[0])]


SAM = Family(
    name="sam",
    model_types=("sam_vision_model",),
    tower_class="sam.modeling_sam:SamVisionEncoder",
    blocks=(("layers", "num_hidden_layers"),),
    head="neck",
    geometry=SamGeometry(),
    attention_output="",  # heads cannot be read one by one: states have rows and columns
    tensor_classes={"rel_pos": "position_embedding", r"\.lin1\.": "mlp_in", r"\.lin2\.": "mlp_out"},
    processor="SamImageProcessorPil",
    processors={"SamImageProcessor": "SamImageProcessorPil"},
)


def from_segment_anything(saved: Mapping[str, str]) -> dict[str, str]:
    """Return weights of transformers' class by name, given those that the code of Segment Anything saved."""
    return {_renamed(name): key for name, key in saved.items() if not name.startswith(_UNUSED)}


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name, count=1)
    return name
