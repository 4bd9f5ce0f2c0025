"""PaliGemma and Gemma 3: a SigLIP tower read after its last norm."""

from __future__ import annotations

from typing import Any

from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector
from transformers.models.paligemma.modeling_paligemma import PaliGemmaMultiModalProjector

from visprobe.encoders.structure.connector import of_class
from visprobe.encoders.structure.geometry import Tiled
from visprobe.encoders.structure.model import Model, SingleView, last_state
from visprobe.errors import UsageError

ORDER = 5


def _pan_and_scan(config: Any) -> Tiled:
    raise UsageError(
        "the tiles of Gemma 3 are not available: the crops of pan and scan do not make up one grid",
        hint="Leave out --tiles; the image is then read whole.",
    )


MODELS = (
    Model(
        name="PaliGemma",
        model_types=("paligemma",),
        cls="PaliGemmaForConditionalGeneration",
        reads=last_state,
        connect=of_class(PaliGemmaMultiModalProjector, width=lambda config: config.vision_config.projection_dim),
        towers=("siglip",),
    ),
    Model(
        name="Gemma 3",
        model_types=("gemma3",),
        cls="Gemma3ForConditionalGeneration",
        reads=last_state,
        connect=of_class(Gemma3MultiModalProjector),
        towers=("siglip",),
        untiled="images are read whole, without the crops of pan and scan",
        tiles=_pan_and_scan,
        processor="Gemma3ImageProcessorPil",
        single_view=SingleView({"do_pan_and_scan": False}),
    ),
)
