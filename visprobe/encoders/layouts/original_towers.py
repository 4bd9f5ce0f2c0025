"""Towers of original LLaVA by the name in `mm_vision_tower`, and how its code reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import transformers
from PIL import Image
from torch.nn.functional import interpolate
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from visprobe.encoders.checkpoint.opened import library_config
from visprobe.encoders.families.squares import TOWERS as SQUARES
from visprobe.encoders.layouts.sam import SAM, from_segment_anything
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.processor import default_processor, make_processor
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry, side
from visprobe.encoders.structure.layout import Source, unfused
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


# Width, MLP width, blocks, heads.
_SIGLIP_SIZES = {
    "base": (768, 3072, 12, 12),
    "large": (1024, 4096, 24, 16),
    "so400m": (1152, 4304, 27, 16),
    "giant-opt": (1536, 6144, 40, 16),
}
_CLIP_SIZES = {
    "base": (768, 3072, 12, 12),
    "large": (1024, 4096, 24, 16),
    "h": (1280, 5120, 32, 16),
    "bigg": (1664, 8192, 48, 16),
}
_VIT_SIZES = {"b": (768, 3072, 12, 12), "l": (1024, 4096, 24, 16), "h": (1280, 5120, 32, 16)}
# Width, blocks, heads.
_DINO_SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "giant": (1536, 40, 24)}
# Width, blocks, heads, blocks that attend over the whole image.
_SAM_SIZES = {
    "b": (768, 12, 12, (2, 5, 8, 11)),
    "l": (1024, 24, 16, (5, 11, 17, 23)),
    "h": (1280, 32, 16, (7, 15, 23, 31)),
}
_SAM_SIDE = 1024
_SIGLIP = re.compile(r"siglip2?-(base|large|so400m|giant-opt)-patch(\d+)-(\d+)(-i18n|-multilingual)?")
_CLIP = re.compile(r"clip-vit-(base|large)-patch(\d+)(?:-(\d+))?")
_LAION = re.compile(r"clip-vit-(h|bigg)-(14)-laion2b-.*")
_MLCD = re.compile(r"mlcd-vit-bigg-patch(14)-(336|448)")
_DINO = re.compile(r"dinov2-(small|base|large|giant)(-imagenet1k-1-layer)?")
_TIMM = re.compile(r"(?:mae-vit-(?:h-14|l-16)|moco-vit-b-16|supervised-vit-(?:h-14|l-16)-in21k)")
_SAM = re.compile(r"sam_(?:vit_([blh])|b_downsample)")
NAMES = (
    "siglip-{base,large,so400m}-patchP-R, siglip2-{base,large,so400m,giant-opt}-patchP-R, clip-vit-{base,large}-patchP"
    "[-R], CLIP-ViT-{H,bigG}-14-laion2B-*, mlcd-vit-bigG-patch14-R, dinov2-{small,base,large,giant}[-resN][-interpM], "
    "mae-vit-{h-14,l-16}, moco-vit-b-16, supervised-vit-{h-14,l-16}-in21k, sam_vit_{b,l,h}[-interpM]"
)


def known_tower(name: str) -> Any | None:
    """Return the transformers configuration of the tower `name`, or None if it is not known.

    Args:
        name: Hub name or path; only its last part counts ("google/siglip-so400m-patch14-384").
    """
    last = name.rstrip("/").split("/")[-1].lower()
    if found := _SIGLIP.fullmatch(last):
        return transformers.SiglipVisionConfig(**_sizes(_SIGLIP_SIZES[found[1]], found[2], found[3]))
    if found := _CLIP.fullmatch(last):
        sizes = _sizes(_CLIP_SIZES[found[1]], found[2], found[3] or "224")
        return transformers.CLIPVisionConfig(hidden_act="quick_gelu", **sizes)
    if found := _LAION.fullmatch(last):
        return transformers.CLIPVisionConfig(hidden_act="gelu", **_sizes(_CLIP_SIZES[found[1]], found[2], "224"))
    if found := _MLCD.fullmatch(last):
        return transformers.MLCDVisionConfig(**_sizes(_CLIP_SIZES["bigg"], found[1], found[2]))
    if found := _DINO.fullmatch(last):
        return _dino(found[1])
    if _TIMM.fullmatch(last):
        return _timm(last.removesuffix("-in21k"))
    if found := _SAM.fullmatch(last):
        return _sam(found[1] or "b")
    return None


def _dino(size: str) -> Any:
    width, blocks, heads = _DINO_SIZES[size]
    return transformers.Dinov2Config(
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, use_swiglu_ffn=size == "giant",
        image_size=518, patch_size=14,
    )  # fmt: skip


def _timm(name: str) -> Any:
    _, _, size, patch = name.split("-")
    return transformers.ViTConfig(layer_norm_eps=1e-6, **_sizes(_VIT_SIZES[size], patch, "224"))


def _sam(size: str) -> Any:
    width, blocks, heads, whole = _SAM_SIZES[size]
    return transformers.SamVisionConfig(
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, global_attn_indexes=whole,
        image_size=_SAM_SIDE, patch_size=16, initializer_range=0.02,
    )  # fmt: skip


def _sizes(size: tuple[int, int, int, int], patch: str, image: str) -> dict[str, int]:
    width, mlp, blocks, heads = size
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "patch_size": int(patch),
        "image_size": int(image),
    }


_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_INSIDE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def from_timm(saved: Mapping[str, str]) -> dict[str, Source]:
    """Return weights of transformers' ViT by name, given those of timm's; a classifier on top is left out.

    Args:
        saved: Names in timm's class to names in the file.
    """
    sources: dict[str, Source] = {}
    for name, key in saved.items():
        if block := _BLOCK.fullmatch(name):
            sources |= _in_block(f"layers.{block[1]}.", block[2], block[3], key)
        elif not name.startswith("head."):
            place, _, kind = name.rpartition(".")
            sources[_OUTSIDE.get(name) or f"{_OUTSIDE.get(place, place)}.{kind}"] = key
    return sources


def _in_block(block: str, place: str, kind: str, key: str) -> dict[str, Source]:
    if place != "attn.qkv":
        return {f"{block}{_INSIDE.get(place, place)}.{kind}": key}
    return unfused(f"{block}attention.", kind, key)
