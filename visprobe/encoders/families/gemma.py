"""PaliGemma and Gemma 3: a SigLIP tower read after its last norm."""

from __future__ import annotations

from typing import Any

from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector
from transformers.models.paligemma.modeling_paligemma import PaliGemmaMultiModalProjector

from visprobe.encoders.families.llava import spellings
from visprobe.encoders.structure.connector import of_class
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.model import Model, SingleView
from visprobe.encoders.structure.tiles import Tiled
from visprobe.errors import UsageError

ORDER = 5


def _last(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    return (family.last_site(config.vision_config),), "the model reads the tower's last_hidden_state"


def _pan_and_scan(config: Any) -> Tiled:
    raise UsageError(
        "the tiles of Gemma 3 are not available: the crops of pan and scan do not make up one grid",
        hint="Leave out --tiles; the image is then read whole.",
    )


_PROJECTOR = {"": "multi_modal_projector."}
MODELS = (
    Model(
        name="PaliGemma",
        model_types=("paligemma",),
        cls="PaliGemmaForConditionalGeneration",
        spellings=spellings(_PROJECTOR),
        reads=_last,
        connect=of_class(PaliGemmaMultiModalProjector, width=lambda config: config.vision_config.projection_dim),
        towers=("siglip",),
    ),
    Model(
        name="Gemma 3",
        model_types=("gemma3",),
        cls="Gemma3ForConditionalGeneration",
        spellings=spellings(_PROJECTOR),
        reads=_last,
        connect=of_class(Gemma3MultiModalProjector),
        towers=("siglip",),
        untiled="images are read whole, without the crops of pan and scan",
        tiles=_pan_and_scan,
        processor="Gemma3ImageProcessorPil",
        single_view=SingleView({"do_pan_and_scan": False}),
    ),
)
