"""PaliGemma and Gemma 3: a SigLIP tower read after its last norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector
from transformers.models.paligemma.modeling_paligemma import PaliGemmaMultiModalProjector

from visprobe.encoders.families.llava import spellings
from visprobe.encoders.structure.connector import Connector, of_class
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.model import Model, SingleView
from visprobe.encoders.structure.tiles import Tiled
from visprobe.errors import UsageError
from visprobe.io.containers.tensors import TensorEntry

ORDER = 5


def _last(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    return (family.last_site(config.vision_config),), "the model reads the tower's last_hidden_state"


def _linear(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
    width = int(config.vision_config.projection_dim)
    return of_class(PaliGemmaMultiModalProjector, config, width=width, reads=reads)


def _pooled(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
    width = int(config.text_config.hidden_size)
    return of_class(Gemma3MultiModalProjector, config, width=width, reads=reads)


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
        connect=_linear,
        towers=("siglip",),
    ),
    Model(
        name="Gemma 3",
        model_types=("gemma3",),
        cls="Gemma3ForConditionalGeneration",
        spellings=spellings(_PROJECTOR),
        reads=_last,
        connect=_pooled,
        towers=("siglip",),
        untiled="images are read whole, without the crops of pan and scan",
        tiles=_pan_and_scan,
        processor="Gemma3ImageProcessorPil",
        single_view=SingleView({"do_pan_and_scan": False}),
    ),
)
