"""Idefics3 and SmolVLM: a SigLIP tower of their own, read after its last norm through a pixel shuffle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMConnector

from visprobe.encoders.pixels import Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.connector import of_class
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, Tiled, arranged, side, tiles
from visprobe.encoders.structure.model import Model, SingleView, Spelling, last_state

ORDER = 6


class GlobalView(Geometry):
    """Geometry of the square that Idefics3 makes of a whole image and gives to its tower after the tiles."""

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields; `do_image_splitting` stays, since it decides how often the image is resized."""
        square = {"longest_edge": side(config.image_size)}
        sizes = {"size": {"longest_edge": 4 * square["longest_edge"]}, "max_image_size": square}
        kept = {key: stored[key] for key in ("max_image_size", "do_image_splitting") if key in stored}
        return {**sizes, **plain_fields(stored), **kept}

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn RGB `images` of any sizes into squares, resized as often as the model's own processor does."""
        arrays = [_resized(processor, np.asarray(image).transpose(2, 0, 1)) for image in images]
        made = processor(
            arrays, do_resize=False, do_image_splitting=False, input_data_format="channels_first", return_tensors="pt"
        )
        values = torch.as_tensor(made["pixel_values"][0], dtype=torch.float32)
        patch = side(config.patch_size)
        return Pixels({"pixel_values": values}, ((values.shape[-2] // patch, values.shape[-1] // patch),) * len(values))


class SplitImages(Tiled, GlobalView):
    """Geometry of the tiles before that square; the image is stretched to a whole number of them."""

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields; images are split even where the checkpoint leaves them whole."""
        return {**super().fields(stored, config, resolution), "do_image_splitting": True}

    def cut(self, processor: Any, config: Any, image: Image.Image) -> Pixels:
        """Cut one RGB image into tiles; one that is not larger than a tile is not split."""
        made = processor([[image]], return_row_col_info=True, return_tensors="pt")
        rows, columns = max(1, made["rows"][0][0]), max(1, made["cols"][0][0])
        values = made["pixel_values"][0][: rows * columns]
        return tiles(values, arranged(rows, columns, values.shape[-1], config))


def _resized(processor: Any, image: np.ndarray[Any, Any]) -> Any:
    """Resize an image as the processor does before it cuts tiles and squeezes the image into one square."""
    array: Any = image
    if processor.do_resize:
        array = processor.resize(array, size=processor.size, resample=processor.resample)
    if processor.do_image_splitting:
        edge = processor.max_image_size["longest_edge"]
        array = processor.resize_for_vision_encoder(array, edge, resample=processor.resample)
    return array


def _tower(name: str, module: str, cls: str) -> Family:
    return Family(
        name=name,
        model_types=(f"{name}_vision", name),  # many configurations give the tower the type of the whole model
        tower_class=f"{module}:{cls}VisionTransformer",
        norm="post_layernorm",
        norm_on_tokens=True,
        geometry=GlobalView(),
        processor=f"{cls}ImageProcessorPil",
        processors={f"{kind}ImageProcessor": f"{kind}ImageProcessorPil" for kind in ("Idefics3", "SmolVLM")},
    )


def _model(name: str, cls: str, connector: Callable[[Any], nn.Module], tower: str) -> Model:
    return Model(
        name=name,
        model_types=(tower,),
        cls=f"{cls}ForConditionalGeneration",
        spellings=(Spelling("D", "model.vision_model.", {"": "model.connector."}),),
        reads=last_state,
        connect=of_class(connector),
        towers=(tower,),
        untiled="only the squashed whole image is used, not the tiles that the model reads beside it",
        tiles=lambda config: SplitImages(),
        single_view=SingleView({"do_image_splitting": False}),
        language=("model.text_model.", "lm_head."),
    )


TOWERS = (
    _tower("idefics3", "idefics3.modeling_idefics3", "Idefics3"),
    _tower("smolvlm", "smolvlm.modeling_smolvlm", "SmolVLM"),
)
MODELS = (
    _model("Idefics3", "Idefics3", Idefics3Connector, "idefics3"),
    _model("SmolVLM", "SmolVLM", SmolVLMConnector, "smolvlm"),
)
