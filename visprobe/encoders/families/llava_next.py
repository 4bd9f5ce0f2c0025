"""LLaVA-NeXT, its video model on images, and VipLLaVA, as transformers saves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.vipllava.modeling_vipllava import VipLlavaMultiModalProjector

from visprobe.encoders.families.llava import SQUARES, base_only, class_token_notes, mlp
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.anyres import any_resolution
from visprobe.encoders.structure.connector import of_class, side_by_side
from visprobe.encoders.structure.geometry import Geometry, side
from visprobe.encoders.structure.model import Model

ORDER = 3


class SquashedBase(Geometry):
    """Geometry of the whole image squeezed into one square, as LLaVA-NeXT reads it before the tiles."""

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields with a square in place of the length of the shorter edge."""
        kept, size = plain_fields(stored), stored.get("size") or {}
        length = int(size.get("shortest_edge") or size.get("height") or side(config.image_size))
        return {**kept, "do_resize": True, "size": {"height": length, "width": length}}


MODELS = (
    Model(
        name="LLaVA-NeXT",
        model_types=("llava_next", "llava_next_video"),
        cls="LlavaNextForConditionalGeneration",
        connect=mlp,
        towers=SQUARES,
        notes=class_token_notes,
        geometry=lambda config: SquashedBase(),
        untiled=base_only("LLaVA-NeXT"),
        tiles=any_resolution,
        beside=("model.image_newline",),
        processors=dict.fromkeys(("LlavaNextImageProcessor", "GotOcr2ImageProcessor"), "GotOcr2ImageProcessorPil"),
        processor="GotOcr2ImageProcessorPil",  # a square of any image, and no more
    ),
    Model(
        name="VipLLaVA",
        model_types=("vipllava",),
        cls="VipLlavaForConditionalGeneration",
        connect=of_class(VipLlavaMultiModalProjector, project=side_by_side),
        towers=("clip",),
    ),
)
