"""Completed checkpoints of original LLaVA: usual names below another prefix, and the frozen tower that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from visprobe.encoders.checkpoint.opened import Checkpoint, open_checkpoint
from visprobe.encoders.checkpoint.wrappers import Renamed
from visprobe.encoders.layouts.original_towers import original_tower
from visprobe.encoders.structure.layout import apart, beside, block_places, frozen_tower, notes_on_places, places, under
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import Joined, Tensors

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
