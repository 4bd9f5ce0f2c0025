"""The image processor of a checkpoint: how an image becomes the pixels that its tower reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from PIL import Image

from visprobe.encoders.quiet import quiet
from visprobe.errors import CheckpointError

# LLaVA-OneVision's processor makes tiles beside a squashed base view; SigLIP's makes exactly that base view.
_CLASSES = {
    "SiglipImageProcessor": "SiglipImageProcessorPil",
    "CLIPImageProcessor": "CLIPImageProcessorPil",
    "CLIPFeatureExtractor": "CLIPImageProcessorPil",
    "LlavaImageProcessor": "LlavaImageProcessorPil",
    "LlavaOnevisionImageProcessor": "SiglipImageProcessorPil",
    "BitImageProcessor": "BitImageProcessorPil",
    "ViTImageProcessor": "ViTImageProcessorPil",
    "ViTFeatureExtractor": "ViTImageProcessorPil",
}
_DEFAULTS = {
    "siglip": "SiglipImageProcessorPil",
    "clip": "CLIPImageProcessorPil",
    "dinov2": "BitImageProcessorPil",
    "dinov2_with_registers": "BitImageProcessorPil",
    "vit": "ViTImageProcessorPil",
}
_FIELDS = (
    "do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_pad", "do_rescale",
    "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip
_SWITCHED = {
    "do_resize": ("size", "resample"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}


def read_processor(folder: Path) -> Any | None:
    """The image processor that `folder` describes, on the Pillow backend, or None if it describes none.

    Raises:
        CheckpointError: If the description is damaged or names an unknown kind of processor.
    """
    fields = _stored_fields(folder)
    if fields is None:
        return None
    kind = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "CLIPImageProcessor")
    name = _CLASSES.get(kind.removesuffix("Pil").removesuffix("Fast"))
    if name is None:
        raise CheckpointError(
            f"{folder} names the image processor {kind}, which visprobe does not know",
            hint=f"Supported processors: {', '.join(sorted(_CLASSES))}.",
        )
    padded = name == "LlavaImageProcessorPil"  # for the others do_pad concerns tiles
    return make_processor(name, {key: fields[key] for key in _FIELDS if key in fields and (padded or key != "do_pad")})


def find_processor(folder: Path, family: str, image_size: int) -> tuple[Any, list[str]]:
    """The processor of `folder`, else that of the family, with a warning if it had to be assumed."""
    processor = read_processor(folder)
    if processor is not None:
        return processor, []
    warning = "the folder has no preprocessor_config.json: the default image processor of the tower is used"
    return default_processor(family, image_size), [warning]


def default_processor(family: str, image_size: int) -> Any:
    """The processor that transformers gives towers of `family`, set to square images of `image_size` pixels."""
    square = {"height": image_size, "width": image_size}
    if family in {"siglip", "vit"}:
        return make_processor(_DEFAULTS[family], {"size": square})
    return make_processor(_DEFAULTS[family], {"size": {"shortest_edge": image_size}, "crop_size": square})


def make_processor(name: str, fields: Mapping[str, Any]) -> Any:
    """The transformers image processor class `name` with `fields`.

    Raises:
        CheckpointError: If they make no processor.
    """
    try:
        with quiet():
            return getattr(transformers, name)(**fields)
    except Exception as error:  # transformers raises many types on fields it cannot use
        raise _unusable(error) from error


def output_size(processor: Any) -> tuple[int, int]:
    """Height and width in pixels of what `processor` makes of any image.

    Raises:
        CheckpointError: If the size depends on the image, or the processor makes nothing of it.
    """
    sizes = set()
    for shape in ((64, 48), (40, 120)):
        try:
            pixels = processor([Image.new("RGB", shape)], return_tensors="pt")["pixel_values"]
        except Exception as error:  # as above
            raise _unusable(error) from error
        sizes.add(tuple(pixels.shape[-2:]))
    if len(sizes) != 1:
        raise CheckpointError(
            f"the image processor gives images of different sizes ({sorted(sizes)})",
            hint="visprobe needs a processor with a fixed output size: set size or crop_size to a square.",
        )
    height, width = sizes.pop()
    return height, width


def _unusable(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"transformers cannot make the image processor that the checkpoint describes: {error}".splitlines()[0],
        hint="Copy preprocessor_config.json again from the base model.",
    )


def processor_hash(processor: Any) -> str:
    """SHA-256 over the fields of `processor` that change pixels, and no others."""
    values = processor.to_dict()
    kept = {key: values[key] for key in _FIELDS if values.get(key)}
    for switch, fields in _SWITCHED.items():
        for field in () if switch in kept else fields:
            kept.pop(field, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _stored_fields(folder: Path) -> Mapping[str, Any] | None:
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            fields = json.loads(path.read_text())
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}", hint="Copy it again from the base model.") from error
        if not isinstance(fields, dict):
            raise CheckpointError(f"{path} does not describe a processor", hint="Copy it again from the base model.")
        fields = fields.get("image_processor") if name == "processor_config.json" else fields
        if isinstance(fields, dict):
            return fields
    return None
