"""Towers of original LLaVA by the name in `mm_vision_tower`, and how its code reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch.nn.functional import interpolate
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from visprobe.encoders.checkpoint.opened import library_config
from visprobe.encoders.families.squares import TOWERS as SQUARES
from visprobe.encoders.layouts.known_towers import NAMES, known_tower
from visprobe.encoders.layouts.sam import SAM, from_segment_anything
from visprobe.encoders.layouts.timm_vit import from_timm
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import default_processor, make_processor
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, side
from visprobe.encoders.structure.layout import Source
from visprobe.errors import CheckpointError

Rule = Literal["selected", "siglip", "final", "last"]
_FAMILY_OF = {model_type: family for family in (*SQUARES, SAM) for model_type in family.model_types}
_RULES: dict[str, Rule] = {"siglip": "siglip", "clip": "selected", "mlcd": "selected", "dinov2": "final", "sam": "last"}
_SUFFIX = re.compile(r"(?P<name>.*?)(?:-res(?P<res>\d+))?(?:-interp(?P<interp>\d+))?")
_NOT_YET = re.compile(r"open_clip_hub:.*|imagebind_huge|.*eva/clip.*|.*eva02.*", re.IGNORECASE)
_SAM_TOKENS = 1024  # number that SAM's tokens are resampled to where its name does not say it
_INCEPTION = (0.5, 0.5, 0.5)
# Side before the centre crop, filter, mean and standard deviation of the transforms of towers that have no processor.
_TRANSFORMS = {
    "mae": (248, PILImageResampling.BICUBIC, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "moco": (256, PILImageResampling.BILINEAR, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "supervised": (248, PILImageResampling.BICUBIC, _INCEPTION, _INCEPTION),
}
_TIMM_HUB = {
    "mae-vit-h-14": "timm/vit_huge_patch14_224.mae",
    "mae-vit-l-16": "timm/vit_large_patch16_224.mae",
    "supervised-vit-h-14-in21k": "timm/vit_huge_patch14_224.orig_in21k",
    "supervised-vit-l-16-in21k": "timm/vit_large_patch16_224.orig_in21k",
}


@dataclass(frozen=True)
class OriginalTower:
    """Tower as original LLaVA uses it.

    Attributes:
        name: Folder or hub id of the tower that was trained on, or its name where it has neither.
        family: Family of the tower.
        config: transformers configuration.
        rule: State that the code reads: the "selected" layer; for "siglip" the output after the last block is
            deleted; the "final" norm; the "last" block.
        resolution: Side of the images, in pixels, where the name changes it.
        resampled: Side of the grid that the tokens are resampled to before the projector, if they are.
        timm: First part of its name if it is one of timm's vision transformers ("mae").
    """

    name: str
    family: Family
    config: Any
    rule: Rule
    resolution: int | None = None
    resampled: int | None = None
    timm: str | None = None

    @property
    def origin(self) -> str:
        """Folder or hub id of the tower's weights before any training."""
        return _TIMM_HUB.get(self.name.lower(), self.name)

    def sources(self, saved: Mapping[str, str]) -> Mapping[str, Source]:
        """Return the tower's weights by name in transformers' class, given its names on disk."""
        if self.timm:
            return from_timm(saved)
        return from_segment_anything(saved) if self.family is SAM else dict(saved)

    def processor(self) -> Any:
        """Make the image processor that the original code makes for this tower."""
        size = side(self.config.image_size)
        square = {"height": size, "width": size}
        if self.timm:
            edge, resample, mean, std = _TRANSFORMS[self.timm]
            fields = {"size": {"shortest_edge": edge * size // 224}, "crop_size": square, "resample": int(resample)}
            return make_processor("CLIPImageProcessorPil", {**fields, "image_mean": list(mean), "image_std": list(std)})
        if self.family is SAM:
            return make_processor(self.family.processor, {"size": {"longest_edge": size}, "pad_size": square})
        return default_processor(self.family, self.resolution or size)


def original_tower(named: str) -> OriginalTower:
    """Return the tower that `mm_vision_tower` names.

    Args:
        named: A local folder, a hub id, or one of the names that the code knows.

    Raises:
        CheckpointError: If it is unknown, or not supported yet.
    """
    if _NOT_YET.fullmatch(named):
        raise CheckpointError(
            f"the tower {named} is not supported yet: transformers has no class for it, or the code reads it "
            "differently in each version of its library",
            hint=f"Known towers: {NAMES}.",
        )
    parts = _SUFFIX.fullmatch(named.removeprefix("hf:"))
    assert parts is not None  # every part of the pattern may be empty
    name, library = parts["name"], named.startswith("hf:")
    config = _described(Path(name)) or known_tower(name)
    family = _FAMILY_OF.get(config.model_type) if config is not None else None
    timm = _timm_kind(name) if family is not None and family.name == "vit" else None
    rule = _rule(family, library, timm)
    if config is None or family is None or rule is None:
        raise CheckpointError(
            f"mm_vision_tower names {named}, which visprobe does not know",
            hint=f"Known towers: {NAMES}; or let mm_vision_tower be a local folder with the config.json of a SigLIP, "
            "CLIP, MLCD or DINOv2 tower.",
        )
    res, interp = (int(parts[part]) if parts[part] else None for part in ("res", "interp"))
    if family is SAM and res not in (None, config.image_size):
        raise CheckpointError(
            f"mm_vision_tower names {named}, and SAM has positions for {config.image_size} pixels alone",
            hint="The original code cannot run it either; check mm_vision_tower in config.json.",
        )
    tokens = interp or (_SAM_TOKENS if family is SAM else None)
    return OriginalTower(name, family, config, rule, res, int(tokens**0.5) if tokens else None, timm)


class BaseScale(Geometry):
    """Geometry of the smallest of several scales: pixels of the largest are resampled to the tower's size."""

    def preprocess(self, processor: Any, config: Any, images: Sequence[Image.Image]) -> Pixels:
        """Turn RGB `images` of any sizes into inputs of the tower, float32, on the CPU."""
        values = super().preprocess(processor, config, images).inputs["pixel_values"]
        size = side(config.image_size)
        grid = self.grid(processor, config)
        return Pixels({"pixel_values": interpolate(values, (size, size), mode="bicubic")}, (grid,) * len(values))

    def grid(self, processor: Any, config: Any) -> Grid:
        """Return rows and columns of patch tokens."""
        return (side(config.image_size) // side(config.patch_size),) * 2


def _rule(family: Family | None, library: bool, timm: str | None) -> Rule | None:
    if family is None or (library and family is not SAM):
        return "selected" if family else None
    return "final" if timm else _RULES.get(family.name)


def _described(tower: Path) -> Any | None:
    if not (tower / "config.json").is_file():
        return None
    config = library_config(tower)
    return getattr(config, "vision_config", config)


def _timm_kind(name: str) -> str | None:
    kind = name.split("/")[-1].lower().split("-")[0]
    return kind if kind in _TRANSFORMS else None
