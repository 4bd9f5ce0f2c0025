"""DINOv3 vision transformers: a class token, registers and patches whose positions are rotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import Resolution, plain_fields
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, side
from visprobe.errors import CheckpointError

ORDER = 12

_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


class FloatSquares(Geometry):
    """Geometry of square pixels, resized as floating-point numbers.

    DINOv3's own image processor divides by 255 before it resizes, so no pixel is rounded to 8 bits afterwards; it
    needs torchvision. The resize here is the function of torch that torchvision calls; cropping and normalising are
    left to a Pillow processor of transformers.
    """

    plain = False

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return the stored fields, and those of DINOv3's class where nothing is stored.

        Raises:
            CheckpointError: If the stored processor resizes in a way that this one cannot.
        """
        own: dict[str, Any] = {
            "size": dict.fromkeys(("height", "width"), side(config.image_size)),
            "resample": int(Image.Resampling.BILINEAR),
            "image_mean": list(IMAGENET_DEFAULT_MEAN),
            "image_std": list(IMAGENET_DEFAULT_STD),
        }
        fields = own | plain_fields(stored)
        size, resample = fields["size"], fields["resample"]
        fixed = isinstance(size, dict) and size.get("height") and size.get("width")
        if not fixed or resample not in _MODES or not fields.get("do_resize", True):
            raise CheckpointError(
                f"the image processor does not resize as DINOv3 is read: size {size}, filter {resample}, do_resize "
                f"{fields.get('do_resize', True)}",
                hint="Give it a fixed height and width, and filter 2 (bilinear) or 3 (bicubic).",
            )
        return fields

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn RGB `images` of any sizes into float32 pixels."""
        resized = [_resized(processor, image) for image in images]
        options = {"do_resize": False, "do_rescale": False, "input_data_format": "channels_first"}
        made = processor(resized, return_tensors="pt", **options)
        values = torch.as_tensor(made["pixel_values"], dtype=torch.float32)
        height, width = values.shape[-2:]
        patch = side(config.patch_size)
        return Pixels({"pixel_values": values}, ((height // patch, width // patch),) * len(values))

    def grid(self, processor: Any, config: Any) -> Grid:
        """Return rows and columns of patch tokens."""
        return self.preprocess(processor, config, [Image.new("RGB", (8, 8))]).grids[0]


def _resized(processor: Any, image: Image.Image) -> torch.Tensor:
    """Resize `image` as `processor` says, to floats of shape (3, height, width)."""
    size = image.size[::-1]
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(*size, 3).permute(2, 0, 1)[None]
    values = values * float(processor.rescale_factor) if processor.do_rescale else values.float()
    wanted = (processor.size["height"], processor.size["width"])
    if size != wanted:
        values = interpolate(values, wanted, mode=_MODES[processor.resample], align_corners=False, antialias=True)
    return values[0]


TOWERS = (
    Family(
        name="dinov3",
        model_types=("dinov3_vit",),
        tower_class="DINOv3ViTModel",
        blocks=(("model.layer", "num_hidden_layers"),),
        norm="norm",
        norm_on_tokens=True,
        pools=True,
        has_cls=True,
        geometry=FloatSquares(),
        attention_output="attention.o_proj",
        unread=("embeddings.mask_token",),
        any_size=lambda config: True,
        processor="PvtImageProcessorPil",  # plain steps in the usual order; DINOv3 has no Pillow class of its own
        processors=dict.fromkeys(("DINOv3ViTImageProcessor", "PvtImageProcessor"), "PvtImageProcessorPil"),
    ),
)
