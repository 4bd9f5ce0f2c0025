"""InternVL as transformers saves it: an InternViT tower, and a projector that joins squares of four tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.connector import Connector, of_class
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, Tiled, arranged, side, tiles
from visprobe.encoders.structure.layout import Source, hidden_state
from visprobe.encoders.structure.model import Model, SingleView
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import TensorEntry

ORDER = 7

# Names of the first conversions to transformers, made before InternVL was part of it.
_FIRST_NAMES = (
    (re.compile(r"\.attention\.attention\.(?=(query|key|value)\.)"), ".attention."),
    (re.compile(r"\.attention\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.value\."), ".attention.v_proj."),
    (re.compile(r"\.attention\.attention\.([qk]_norm)\."), r".attention.\1."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.projection_layer."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"(\.\d+)\.output\.dense\."), r"\1.mlp.fc2."),
)


class SquashedView(Geometry):
    """Geometry of images squeezed into one square, as InternVL makes its thumbnail.

    Attributes:
        normalisation: Mean and standard deviation where the processor stores none.
    """

    normalisation: ClassVar[Mapping[str, Any]] = {
        "image_mean": IMAGENET_DEFAULT_MEAN,
        "image_std": IMAGENET_DEFAULT_STD,
    }

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields without crops: old checkpoints store a crop that InternVL's code never makes."""
        kept = {k: v for k, v in plain_fields(stored).items() if k not in {"do_center_crop", "crop_size", "size"}}
        square = {"height": side(config.image_size), "width": side(config.image_size)}
        return {"size": square, **self.normalisation, **kept}


@dataclass(frozen=True)
class Crops(Tiled, SquashedView):
    """Geometry of the tiles before the thumbnail; the image is stretched to a whole number of them.

    Attributes:
        fewest: Smallest number of tiles, where the processor stores none.
        most: Largest number of tiles, where the processor stores none.
    """

    fewest: int = 1
    most: int = 12

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields; images are cut even where the fields leave that to the whole model's processor."""
        fields = {**super().fields(stored, config, resolution), "crop_to_patches": True}
        return {"min_patches": self.fewest, "max_patches": self.most, **_counts(stored), **fields}

    def cut(self, processor: Any, config: Any, image: Image.Image) -> Pixels:
        """Cut one RGB image into its tiles."""
        tile = (processor.size["height"], processor.size["width"])
        limits = processor.min_patches, processor.max_patches
        columns, rows = get_optimal_tiled_canvas((image.height, image.width), tile, *limits)
        values = processor([image], return_tensors="pt")["pixel_values"][: rows * columns]
        return tiles(values, arranged(rows, columns, values.shape[-1], config))


def _counts(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stored[name] for name in ("min_patches", "max_patches") if name in stored}


@dataclass(frozen=True)
class InternViT(Family):
    """InternViT, whose last norm is absent in every released model."""

    def last_site(self, config: Any) -> str:
        """Return the site of the tower's `last_hidden_state`."""
        return f"block_{self.depth(config):02d}" if config.use_mean_pooling else "final_norm"


INTERNVIT = InternViT(
    name="internvl",
    model_types=("internvl_vision",),
    tower_class="InternVLVisionModel",
    blocks=(("encoder.layer", "num_hidden_layers"),),
    norm="layernorm",
    norm_on_tokens=True,
    has_cls=True,
    geometry=SquashedView(),
    attention_output="attention.projection_layer",
    tensor_classes={r"\.projection_layer\.": "attention_out"},
    unread=("embeddings.mask_token",),
    processor="GotOcr2ImageProcessorPil",
    processors={
        kind: "GotOcr2ImageProcessorPil"
        for kind in ("GotOcr2ImageProcessor", "CLIPImageProcessor", "CLIPFeatureExtractor")
    },
)


def selected(layer: object, config: Any) -> str:
    """Return the site of InternVL's `vision_feature_layer` in a tower of configuration `config`.

    Raises:
        CheckpointError: If there is no such layer.
    """
    if layer == -1:
        return INTERNVIT.last_site(config)
    if not isinstance(layer, int):
        raise CheckpointError(
            f"the configuration selects the vision layers {layer}; InternVL reads one",
            hint="Check vision_feature_layer in config.json.",
        )
    return hidden_state(layer, INTERNVIT.depth(config))


def connector(config: Any, reads: tuple[str, ...]) -> Connector:
    """Make the connector: `InternVLMultiModalProjector` after the pixel shuffle.

    Args:
        config: Configuration of the model, an `InternVLConfig`.
        reads: Site that it reads.
    """
    project = partial(_shuffled, factor=round(1 / config.downsample_ratio))
    return of_class(InternVLMultiModalProjector, project=project)(config, {}, reads)


def _shuffled(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid, *, factor: int) -> torch.Tensor:
    """Join each square of `factor` x `factor` tokens to one, row by row, and project it."""
    (images,) = tokens
    rows, columns = grid[0] // factor, grid[1] // factor
    squares = images.reshape(len(images), rows, factor, columns, factor, -1).transpose(2, 3)
    projected: torch.Tensor = module(squares.reshape(len(images), rows * columns, -1))
    return projected


def _reads(config: Any, family: Family) -> tuple[tuple[str, ...], str]:
    layer, depth = config.vision_feature_layer, family.depth(config.vision_config)
    return (selected(layer, config.vision_config),), f"vision_feature_layer is {layer} of {depth} blocks"


def _connect(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
    return connector(config, reads)


def _renamed(names: Mapping[str, str], config: Any) -> dict[str, Source]:
    return {_current(name): key for name, key in names.items()}


def _current(name: str) -> str:
    for pattern, replacement in _FIRST_NAMES:
        name = pattern.sub(replacement, name)
    return name


TOWERS = (INTERNVIT,)
MODELS = (
    Model(
        name="InternVL",
        model_types=("internvl",),
        cls="InternVLForConditionalGeneration",
        reads=_reads,
        connect=_connect,
        towers=("internvl",),
        untiled="only the squashed whole image is used, not the tiles that the model may read beside it",
        tiles=lambda config: Crops(),
        single_view=SingleView({"crop_to_patches": False}),
        renamed=_renamed,
    ),
)
