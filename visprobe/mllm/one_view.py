"""Single views of images, for models whose own processor may cut an image into tiles or choose its size.

A map shows the tokens of one view, so the score must be that of a model that sees this view alone. Prompt tokens come
from the model's processor, with its family's options for a single view (`Model.single_view`); pixels come from the
encoder.

Design: docs/design/0003-maps-of-answers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.families import MODEL_OF, MODELS
from visprobe.encoders.pixels import Grid
from visprobe.encoders.structure.geometry import Tiled, side
from visprobe.encoders.structure.model import SingleView
from visprobe.errors import CheckpointError

_COLOUR = (200, 200, 200)  # an image of zeros after normalisation would count as padding
_SAME = 0.05


class OneView:
    """Processor of a model, set to make one view of an image.

    Args:
        processor: The model's processor.
        options: Options of its image processor for one view.
        in_pairs: Whether the image has to be given as one of two, because a single one would be tiled.
    """

    def __init__(self, processor: Any, options: Mapping[str, Any], in_pairs: bool) -> None:
        self._processor, self._options, self._in_pairs = processor, options, in_pairs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the wrapped processor; assignment replaces it there."""
        return self._processor.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._processor.tokenizer = tokenizer

    def __call__(self, images: list[list[Image.Image]], text: list[str], **options: Any) -> Any:
        """Process one text with one image."""
        options = {**self._options, **options}
        if not self._in_pairs:
            return self._processor(images=images, text=text, **options)
        # With two images the processor does not tile; drop the second one's tokens and pixels again.
        mark = self._processor.image_token
        made = self._processor(images=[images[0] * 2], text=[text[0] + mark], **options)
        count = int((made["input_ids"] == self._processor.image_token_id).sum()) // 2
        halved = {name: made[name][:1] for name in ("pixel_values", "image_sizes")}
        return {**made, **halved, "input_ids": made["input_ids"][:, :-count]}


def one_view(encoder: VisionEncoder, processor: Any, model_type: str, grid: Grid) -> tuple[OneView, Image.Image]:
    """Return the processor for images of `grid` patches, and a blank image of that size.

    Args:
        encoder: Encoder of the tower.
        processor: Processor of the MLLM.
        model_type: Model type of the MLLM's configuration.
        grid: Rows and columns of patches.
    """
    patch = side(encoder.config.patch_size)
    height, width = grid[0] * patch, grid[1] * patch
    view = _single_view(model_type)
    blank = Image.new("RGB", (width, height), _COLOUR)
    return OneView(processor, view.told(height * width), view.in_pairs), blank


def newlines(model_type: str) -> int:
    """Return the number of tokens that a model of `model_type` puts after those of a view."""
    return int(_single_view(model_type).in_pairs)


def _single_view(model_type: str) -> SingleView:
    view = MODEL_OF[model_type].single_view
    assert view is not None  # `check_one_view` refuses models without
    return view


def check_one_view(encoder: VisionEncoder, processor: Any, model_type: str) -> None:
    """Refuse a model that cannot be given one view, or whose processor makes other pixels than the encoder's.

    Raises:
        CheckpointError: If maps of its answers are not possible, or the pixels differ.
    """
    native = encoder.geometry.resolution == "native"
    view = model.single_view if (model := MODEL_OF.get(model_type)) else None
    if view is None or native != view.sized:
        mapped = (name for known in MODELS if known.single_view for name in known.model_types)
        raise CheckpointError(
            f"{encoder.name}: there are no maps of the answers of a {model_type} with a {encoder.family.name} tower",
            hint=f"There are for {', '.join(mapped)}; maps of the tower alone are there for every family.",
        )
    if isinstance(encoder.geometry, Tiled):
        raise CheckpointError(
            f"{encoder.name}: maps of answers are of one view of the image, and this encoder reads tiles",
            hint="Load the encoder without tiles.",
        )
    wide = _ramp()
    pixels = encoder.preprocess([wide])
    _, blank = one_view(encoder, processor, model_type, pixels.grids[0])
    (ours,) = [tensor for tensor in pixels.inputs.values() if tensor.is_floating_point()]
    image = wide.resize(blank.size) if native else wide
    options = view.told(blank.width * blank.height)
    made = processor.image_processor([image], return_tensors="pt", **options)["pixel_values"]
    theirs = torch.as_tensor(made).float().flatten()[: ours.numel()]  # LLaVA-OneVision's base view comes first
    # Filters and repeated resizing differ a little; another crop or colour scale is several times further off.
    if theirs.numel() < ours.numel() or (theirs - ours.flatten()).abs().mean() > _SAME:
        raise CheckpointError(
            f"{encoder.name}: the processor of the model makes other pixels of an image than that of the encoder",
            hint="Take the encoder and the processor from one checkpoint.",
        )


def _ramp() -> Image.Image:
    """Make a smooth image, wider than high, that differs along both axes and in each colour."""
    rows, columns = np.mgrid[0:1:64j, 0:1:96j]
    return Image.fromarray((np.stack([columns, rows, 1 - columns * rows], axis=-1) * 255).astype(np.uint8))
