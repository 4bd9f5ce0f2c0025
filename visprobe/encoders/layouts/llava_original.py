"""Layout of the original LLaVA and LLaVA-NeXT code, whose checkpoints name their tower but do not describe it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visprobe.encoders.checkpoint.opened import Checkpoint, open_checkpoint
from visprobe.encoders.checkpoint.tensor_names import Renamed
from visprobe.encoders.families.llava import base_only
from visprobe.encoders.layouts.original_projectors import (
    TYPES,
    ProjectorType,
    original_connector,
    projector_type,
    resampled,
)
from visprobe.encoders.layouts.original_towers import BaseScale, OriginalTower, original_tower
from visprobe.encoders.layouts.sam import SAM
from visprobe.encoders.processor import Resolution, make_processor, read_processor
from visprobe.encoders.structure.anyres import original_tiles, tile_processor
from visprobe.encoders.structure.connector import Connector
from visprobe.encoders.structure.geometry import SQUARE, side
from visprobe.encoders.structure.layout import (
    Layout,
    Source,
    apart,
    beside,
    block_places,
    frozen_tower,
    hidden_state,
    keys_of,
    no_projector,
    no_tower,
    notes_on_places,
    places,
    twins,
    under,
)
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import Joined, Tensors

_FIVE_LAYERS = (-2, -5, -8, -11, 6)
_SLICES = ("", "slicefour", "slice_m25811_f6")
_TILED = ("anyres", "highres", "crop_split")
_PIXELS = ("size", "do_center_crop", "crop_size", "resample", "image_mean", "image_std")


def original_layout(checkpoint: Checkpoint, resolution: Resolution) -> Layout:
    """Find the layout of an original LLaVA checkpoint.

    Args:
        checkpoint: Checkpoint whose config.json names a tower in `mm_vision_tower`.
        resolution: Only `tiles` is used: whether tiles are read.

    Raises:
        CheckpointError: If tower or projector are absent or unknown, or the blocks are not those of the tower.
    """
    raw, names = checkpoint.raw, list(checkpoint.tensors)
    named = str(raw["mm_vision_tower"])
    outer = f"{TOWER}vision_model." if any(n.startswith(f"{TOWER}vision_model.") for n in names) else TOWER
    saved = under(outer, names)
    if not saved:
        raise no_tower(checkpoint.spec, names)
    tower = original_tower(named)
    sources = tower.sources(saved)
    reads, why = _reads(checkpoint, tower, tower.family.block_count(set(sources)))
    tower.family.say_head(tower.config, sources)
    scales = _scales(checkpoint, tower)
    projector = {} if scales else _projector(checkpoint, names)
    processor = _processor(checkpoint, tower, scales)
    tiled = resolution.tiles and tower.family.geometry is SQUARE and not scales
    tiles = original_tiles(checkpoint, processor) if tiled else None
    unused = set(saved.values()) - set(keys_of(sources.values()))
    return Layout(
        name="L",
        family=tower.family,
        config=tower.config,
        tower_name=named,
        tower=sources,
        projector=projector,
        connector=_connector(checkpoint, projector, tower, reads),
        consumed=max(reads),
        why=why,
        processor=tile_processor(processor, tiles, tower.config) if tiles else processor,
        geometry=tiles or (BaseScale() if scales else tower.family.geometry),
        warnings=(*(tiles.notes if tiles else _untiled(checkpoint)), *_warnings(checkpoint, tower, scales, unused)),
        twins=twins([outer, *(place + outer.removeprefix(TOWER) for place in tower_places(names)[1:])], names),
    )


def _reads(checkpoint: Checkpoint, tower: OriginalTower, saved: int) -> tuple[tuple[str, ...], str]:
    """Return the sites that the MLLM reads, and why; sets the number of blocks saved in the configuration."""
    depth = tower.family.depth(tower.config)
    if tower.rule == "siglip" and saved == depth - 1:
        tower.config.num_hidden_layers = saved
    elif saved != depth:
        raise CheckpointError(
            f"{checkpoint.spec} holds {saved} blocks of a tower that has {depth}",
            hint="Check that mm_vision_tower names the tower of this checkpoint, and that the checkpoint is complete.",
        )
    if tower.rule == "siglip" and (saved < depth or isinstance(checkpoint.tensors, FrozenTower)):
        why = f"LLaVA deletes the last of SigLIP's {depth} blocks and reads the one before it"
        return (f"block_{depth - 1:02d}",), why
    if tower.rule == "last":
        return (f"block_{depth:02d}",), f"LLaVA reads the last of {depth} blocks, without the neck"
    feature = _feature(checkpoint, tower)
    if tower.rule == "final":
        return ("final_norm",), "LLaVA reads last_hidden_state, whatever mm_vision_select_layer is"
    return _selected(checkpoint, feature, depth)


def _feature(checkpoint: Checkpoint, tower: OriginalTower) -> str:
    """Return `mm_vision_select_feature` without its part on the class token."""
    feature = str(checkpoint.raw.get("mm_vision_select_feature", "patch"))
    layers = feature.removesuffix("patch").removesuffix("cls_").rstrip("_")
    if not feature.endswith("patch") or layers not in (_SLICES if tower.rule == "selected" else ("",)):
        raise CheckpointError(
            f"{checkpoint.spec} reads the features {feature!r} of its tower",
            hint="mm_vision_select_feature may be patch or cls_patch, and slicefour_… or slice_m25811_f6_… of them "
            "for CLIP.",
        )
    return layers


def _selected(checkpoint: Checkpoint, feature: str, depth: int) -> tuple[tuple[str, ...], str]:
    if feature == "slice_m25811_f6":
        return tuple(hidden_state(n, depth) for n in _FIVE_LAYERS), f"LLaVA reads the layers {_FIVE_LAYERS}"
    layer = checkpoint.raw.get("mm_vision_select_layer")
    if not isinstance(layer, int):
        raise CheckpointError(
            f"{checkpoint.spec} selects vision layer {layer!r}",
            hint="config.json must hold one integer mm_vision_select_layer.",
        )
    why = f"mm_vision_select_layer is {layer} of {depth} blocks"
    if not feature:
        return (hidden_state(layer, depth),), why
    step = (depth + 1) // 4
    reads = tuple(hidden_state(n, depth) for n in range(step + layer, depth + 1, step))
    return reads, f"{why}, and every {step}th layer before it is read too"


def _scales(checkpoint: Checkpoint, tower: OriginalTower) -> list[int]:
    """Return sides of the images that S2 reads, smallest first; empty where there is one scale."""
    raw = checkpoint.raw
    if not raw.get("s2") or tower.rule != "selected" or str(raw["mm_vision_tower"]).startswith("hf:"):
        return []
    scales = sorted(map(int, re.findall(r"\d+", str(raw.get("s2_scales", "336,672,1008")))))
    if not scales or scales[0] != tower.config.image_size:
        raise CheckpointError(
            f"{checkpoint.spec} reads the scales {scales}, its tower {tower.config.image_size} pixels",
            hint="Check s2_scales and mm_vision_tower in config.json.",
        )
    return scales


def _projector(checkpoint: Checkpoint, names: list[str]) -> dict[str, Source]:
    """Return names of the projector's weights by canonical name."""
    kind = _kind(checkpoint)
    found = under(PROJECTOR, names)
    if not found and kind.name != "identity":
        raise no_projector(checkpoint.spec, names)
    return {kind.canonical(name): key for name, key in found.items()}


def _kind(checkpoint: Checkpoint) -> ProjectorType:
    name = str(checkpoint.raw.get("mm_projector_type", "linear"))
    kind = projector_type(name)
    if kind is None:
        raise CheckpointError(
            f"{checkpoint.spec} has a projector of type {name}", hint=f"Supported projectors are {TYPES}."
        )
    return kind


def _connector(
    checkpoint: Checkpoint, projector: Mapping[str, Source], tower: OriginalTower, reads: tuple[str, ...]
) -> Connector | None:
    if not projector:
        return None
    entries = {name: checkpoint.tensors[str(key)] for name, key in projector.items()}
    width = int(tower.config.hidden_size)
    connector = original_connector(_kind(checkpoint), entries, tower_width=width, reads=reads)
    return resampled(connector, tower.resampled) if tower.resampled else connector


def _processor(checkpoint: Checkpoint, tower: OriginalTower, scales: list[int]) -> Any:
    """Return the folder's processor, or the tower's, set to treat image sizes and shapes as LLaVA does."""
    processor = _stored_processor(checkpoint, tower) or tower.processor()
    values, ratio = processor.to_dict(), str(checkpoint.raw.get("image_aspect_ratio"))
    fields = {name: values[name] for name in _PIXELS if values.get(name) is not None}
    colours = {name: fields[name] for name in ("resample", "image_mean", "image_std")}
    resized = max([*scales, tower.resolution or 0])
    size = resized or side(tower.config.image_size)
    square = {"height": size, "width": size}
    if ratio.startswith(_TILED):
        return make_processor("SiglipImageProcessorPil", {"size": square, **colours})
    if resized:
        fields |= {"size": {"shortest_edge": size}, "crop_size": square, "do_center_crop": True}
    if ratio == "pad":
        fields = {"do_center_crop": False, **fields, "do_pad": True}
        fields |= {"size": square} if tower.family is SAM else {}
        return make_processor("LlavaImageProcessorPil", fields)
    return make_processor(type(processor).__name__, fields) if resized else processor


def _stored_processor(checkpoint: Checkpoint, tower: OriginalTower) -> Any | None:
    folders = [checkpoint.folder, Path(tower.name)]
    if isinstance(checkpoint.tensors, FrozenTower) and tower.rule != "siglip":  # LLaVA makes SigLIP's processor itself
        folders.append(checkpoint.tensors.folder)
    stored = (read_processor(folder, tower.family.processors) for folder in folders)
    return next((found for found in stored if found is not None), None)


def _untiled(checkpoint: Checkpoint) -> tuple[str, ...]:
    tiled = str(checkpoint.raw.get("image_aspect_ratio")).startswith(_TILED)
    return (base_only("the MLLM"),) if tiled else ()


def _warnings(checkpoint: Checkpoint, tower: OriginalTower, scales: list[int], unused: set[str]) -> Iterator[str]:
    raw = checkpoint.raw
    feature = str(raw.get("mm_vision_select_feature", "patch"))
    if tower.family.has_cls and feature.endswith("cls_patch") and tower.timm != "mae":
        yield "the MLLM also reads the class token; consumed and projected hold patch tokens only"
    if tower.rule == "selected" and not tower.family.has_cls and not feature.endswith("cls_patch"):
        yield "the MLLM drops the first patch of this tower, which has no class token; it is kept here"
    if scales:
        yield (
            f"the MLLM reads this tower at the scales {', '.join(map(str, scales))} side by side; only the smallest is "
            "read here, and the projector, which needs all of them, is left out"
        )
    if tower.resampled:
        yield f"the MLLM resamples the tokens to {tower.resampled}x{tower.resampled}; consumed holds them before that"
    if raw.get("mm_resampler_type") not in (None, "identity") or any(
        n.startswith(RESAMPLER) for n in checkpoint.tensors
    ):
        yield f"the resampler {raw.get('mm_resampler_type')} is left out: the MLLM's code loads it and never calls it"
    if unused:
        parts = sorted({key.removeprefix(TOWER).split(".")[0] for key in unused})
        yield f"{', '.join(parts)} of the tower are left out: the MLLM's code never uses them"


TOWER = "model.vision_tower.vision_tower."
PROJECTOR = "model.mm_projector."
RESAMPLER = "model.vision_resampler."
_STEMS = ("vision_tower.vision_tower.", "vision_tower.")


class FrozenTower(Joined):
    """Tensors of a checkpoint, with the tower of another one.

    Args:
        own: Tensors of the checkpoint.
        origin: Checkpoint that the tower comes from.
        names: Names of the tower's weights in `own` to their names in `origin`.

    Attributes:
        folder: Folder of the small files of `origin`.
    """

    def __init__(self, own: Tensors, origin: Checkpoint, names: Mapping[str, str]) -> None:
        super().__init__(own, origin.tensors, names)
        self.folder = origin.folder


def with_frozen_tower(checkpoint: Checkpoint) -> Checkpoint:
    """Add to `checkpoint` the tower that its configuration names, if it holds none of its weights.

    Args:
        checkpoint: Any checkpoint; only those of original LLaVA are ever completed.

    Returns:
        The checkpoint, completed or as it was.

    Raises:
        CheckpointError: If the tower is missing and cannot be read, or is missing though it was trained.
    """
    raw = checkpoint.raw
    held = {name: entry.nbytes for name, entry in checkpoint.tensors.items() if name.startswith(TOWER)}
    trained = "mm_vision_tower" in str(raw.get("mm_tunable_parts")) or bool(raw.get("unfreeze_mm_vision_tower"))
    if "mm_vision_tower" not in raw or any(held.values()) or (held and trained):
        return checkpoint
    if trained:
        raise CheckpointError(
            f"{checkpoint.spec} holds no vision tower, though its configuration says that the tower was trained",
            hint="Give the folder that holds the whole model.",
        )
    origin = _origin(checkpoint)
    outer = f"{TOWER}vision_model." if any(name.startswith(f"{TOWER}vision_model.") for name in held) else TOWER
    names = {outer + name: key for name, key in _tower_names(checkpoint, origin).items()}
    note = f"the checkpoint holds no tower: it was frozen; that of {origin.spec} is used"
    tensors = FrozenTower(checkpoint.tensors, origin, names)
    return replace(checkpoint, tensors=tensors, notes=[*checkpoint.notes, note, *origin.notes])


def _origin(checkpoint: Checkpoint) -> Checkpoint:
    """Open the checkpoint that the frozen tower comes from."""
    raw = checkpoint.raw
    named = str(raw["mm_vision_tower"])
    source = raw.get("vision_source_mllm_path") or raw.get("vision_tower_pretrained")
    tower = original_tower(named)
    try:
        return open_checkpoint(str(source or tower.origin))
    except CheckpointError as error:
        missing = frozen_tower(checkpoint.spec, str(source or named), checkpoint.tensors)
        raise CheckpointError(
            f"{missing.message}; it cannot be read: {error.message}",
            hint="Get its weights and let vision_tower_pretrained in config.json be their folder.",
        ) from error


def _tower_names(checkpoint: Checkpoint, origin: Checkpoint) -> dict[str, str]:
    """Return names of the tower's weights in `origin`, a tower by itself or an original LLaVA checkpoint too."""
    family = original_tower(str(checkpoint.raw["mm_vision_tower"])).family
    for prefix in (f"{TOWER}vision_model.", TOWER, *family.outer_prefixes):
        if found := under(prefix, origin.tensors):
            return found
    below = block_places(family.blocks[0][0], family.outer_prefixes, origin.tensors)
    return under(below[0] if below else "", origin.tensors)


def tower_places(names: Sequence[str]) -> list[str]:
    """Return the prefix of each tower among `names`, that of the original code first."""
    usual = [TOWER] if any(name.startswith(TOWER) for name in names) else []
    return apart([*usual, *(place for stem in _STEMS for place in places(stem, names))])


def with_usual_names(checkpoint: Checkpoint) -> Checkpoint:
    """Rename tower and projector of `checkpoint` to the places that the code of original LLaVA expects.

    Args:
        checkpoint: Any checkpoint; only those of original LLaVA are ever changed.
    """
    if "mm_vision_tower" not in checkpoint.raw:
        return checkpoint
    names = list(checkpoint.tensors)
    found = tower_places(names)
    place = found[0] if found else TOWER
    outer = next((place.removesuffix(stem) for stem in _STEMS if place.endswith(stem)), place)
    moves = {place: TOWER} | {
        beside(outer, part.removeprefix("model."), names): part for part in (PROJECTOR, RESAMPLER)
    }
    notes = notes_on_places(found, [TOWER]) if found else []
    moved = {_moved(name, moves): name for name in names}
    if list(moved) == names:
        return replace(checkpoint, notes=[*checkpoint.notes, *notes])
    tensors = Renamed(checkpoint.tensors, moved)
    return replace(checkpoint, tensors=tensors, notes=[*checkpoint.notes, *notes])


def _moved(name: str, moves: dict[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in moves.items() if name.startswith(old)), name)
