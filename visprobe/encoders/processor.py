"""Image processor of a checkpoint, which turns an image into the pixels that its tower reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import transformers
from PIL import Image

from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import CheckpointError
from visprobe.io.regular import read_object

PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # either may describe the image processor
# Kinds that make one view of an image, with which any tower may be saved.
_PLAIN = (
    "SiglipImageProcessor", "CLIPImageProcessor", "CLIPFeatureExtractor", "LlavaImageProcessor", "BitImageProcessor",
    "ViTImageProcessor", "ViTFeatureExtractor",
)  # fmt: skip
_LONGEST_EDGE = 8192  # pixels; a tower of one size reads some hundred
_FIELDS = (
    "do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_pad", "pad_size",
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip
_NATIVE_FIELDS = (
    "min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size", "max_num_patches", "max_soft_tokens",
    "pooling_kernel_size", "spatial_merge_size", "max_image_size", "max_image_tiles", "image_grid_pinpoints",
    "crop_to_patches", "min_patches", "max_patches", "do_image_splitting", "do_pan_and_scan", "use_thumbnail",
)  # fmt: skip
_SWITCHED = {
    "do_resize": ("size", "resample"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}


@dataclass(frozen=True)
class Resolution:
    """Amount of an image that a tower reads.

    Attributes:
        pixels: Pixels per image for towers of native resolution, whose number of tokens follows the image.
        tiles: True to read the tiles of models that cut images into tiles; otherwise the base view alone.
    """

    pixels: int = 448 * 448
    tiles: bool = False


class ShapesProcessor(Protocol):
    """Object that fits a processor's stored fields to the way a tower is read; a geometry does this."""

    def fields(self, stored: Mapping[str, Any], config: Any, resolution: Resolution) -> dict[str, Any]:
        """Return arguments of the processor's class, given the `stored` fields of a checkpoint."""
        ...


def read_processor(
    folder: Path,
    kinds: Mapping[str, str] | None = None,
    shape: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> Any | None:
    """Load the image processor that `folder` describes, on the Pillow backend.

    Args:
        folder: Folder of `preprocessor_config.json` or `processor_config.json`.
        kinds: Classes to use for stored kinds of processor, beside the plain ones.
        shape: Turns stored fields into arguments of the class; by default `plain_fields`.

    Returns:
        The processor, or None if the folder describes none.

    Raises:
        CheckpointError: If the description is damaged or names an unknown kind of processor.
    """
    fields = _stored_fields(folder)
    if fields is None:
        return None
    kind = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "CLIPImageProcessor")
    known = {kind: kind.replace("FeatureExtractor", "ImageProcessor") + "Pil" for kind in _PLAIN} | dict(kinds or {})
    name = known.get(kind.removesuffix("Pil").removesuffix("Fast"))
    if name is None:
        raise CheckpointError(
            f"{folder} names the image processor {kind}, which visprobe does not know",
            hint=f"Supported processors: {', '.join(sorted(known))}.",
        )
    if name == "LlavaImageProcessorPil":  # for the others do_pad concerns tiles
        return make_processor(name, {key: fields[key] for key in _FIELDS if key in fields})
    return make_processor(name, (shape or plain_fields)(fields))


def plain_fields(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored fields that say how one square view is made."""
    return {key: stored[key] for key in _FIELDS if key in stored and key != "do_pad"}


def find_processor(
    folder: Path,
    family: Any,
    config: Any,
    geometry: ShapesProcessor,
    resolution: Resolution,
    kinds: Mapping[str, str] | None = None,
) -> tuple[Any, list[str]]:
    """Load the processor of `folder`, else the default of the tower's family.

    Args:
        folder: Folder of the checkpoint.
        family: `Family` of the tower.
        config: Configuration of the tower.
        geometry: Fits stored fields to the tower.
        resolution: Pixels per image, and whether tiles are read.
        kinds: Classes to use for stored kinds of processor, beside those of the family.

    Returns:
        The processor, and a warning if the default was used.
    """

    def shape(stored: Mapping[str, Any]) -> dict[str, Any]:
        return geometry.fields(stored, config, resolution)

    processor = read_processor(folder, {**family.processors, **(kinds or {})}, shape)
    if processor is not None:
        return processor, []
    warning = "the folder has no preprocessor_config.json: the default image processor of the tower is used"
    fields, size = shape({}), getattr(config, "image_size", None)
    if fields or not size:
        return make_processor(family.processor, fields), [warning]
    return default_processor(family, int(size if isinstance(size, int) else size[0])), [warning]


def default_processor(family: Any, image_size: int) -> Any:
    """Make the default processor of a `Family` for square images of `image_size` pixels."""
    square = {"height": image_size, "width": image_size}
    squashes = "height" in (_class(family.processor).size or {})
    sizes = {"size": square} if squashes else {"size": {"shortest_edge": image_size}, "crop_size": square}
    return make_processor(family.processor, {**sizes, **family.processor_fields})


def make_processor(name: str, fields: Mapping[str, Any]) -> Any:
    """Make the transformers image processor class `name` ("Class", or "module:Class" below its models) with `fields`.

    Raises:
        CheckpointError: If the class refuses the fields.
    """
    try:
        with quiet():
            return _class(name)(**fields)
    except Exception as error:  # transformers raises many types on fields it cannot use
        raise _unusable(error) from error


def _class(name: str) -> Any:
    module, _, cls = name.rpartition(":")
    return getattr(import_module(f"transformers.models.{module}") if module else transformers, cls)


def output_size(processor: Any) -> tuple[int, int]:
    """Return height and width, in pixels, of the processor's output.

    Raises:
        CheckpointError: If the size depends on the image, or the processor fails.
    """
    described = processor.to_dict()
    edges = [edge for name in ("size", "crop_size", "pad_size") for edge in _edges(described.get(name))]
    if max(edges, default=0) > _LONGEST_EDGE:
        raise _unusable(ValueError(f"images of {max(edges)} pixels a side"))
    sizes = set()
    # a tall and a wide probe image: equal sizes mean that the output does not depend on the image
    for shape in ((64, 48), (40, 120)):
        try:
            pixels = processor([Image.new("RGB", shape)], return_tensors="pt")["pixel_values"]
        except Exception as error:  # transformers raises many types on fields it cannot use
            raise _unusable(error) from error
        sizes.add(tuple(pixels.shape[-2:]))
    if len(sizes) != 1:
        raise CheckpointError(
            f"the image processor gives images of different sizes ({sorted(sizes)})",
            hint="visprobe needs a processor with a fixed output size: set size or crop_size to a square.",
        )
    height, width = sizes.pop()
    return height, width


def _edges(size: Any) -> list[float]:
    values = size.values() if isinstance(size, Mapping) else [size]
    return [value for value in values if isinstance(value, int | float)]


def _unusable(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"transformers cannot make the image processor that the checkpoint describes: {error}".splitlines()[0],
        hint="Copy preprocessor_config.json again from the base model.",
    )


def processor_hash(processor: Any) -> str:
    """Return the SHA-256 of the fields of `processor` that change pixels, and no others."""
    values = processor.to_dict()
    kept = {key: values[key] for key in (*_FIELDS, *_NATIVE_FIELDS) if values.get(key)}
    for switch, fields in _SWITCHED.items():
        for field in () if switch in kept else fields:
            kept.pop(field, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _stored_fields(folder: Path) -> Mapping[str, Any] | None:
    for name in PROCESSORS:
        path = folder / name
        if not path.is_file():
            continue
        stored = read_object(path)
        fields = stored.get("image_processor") if name == "processor_config.json" else stored
        if isinstance(fields, dict):
            return fields
    return None
