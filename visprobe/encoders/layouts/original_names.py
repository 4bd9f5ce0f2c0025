"""Names of original LLaVA below another prefix, brought back to those that its code gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from visprobe.encoders.checkpoint.opened import Checkpoint
from visprobe.encoders.checkpoint.wrappers import Renamed
from visprobe.encoders.layouts.frozen_tower import TOWER
from visprobe.encoders.structure.layout import apart, beside, notes_on_places, places

PROJECTOR = "model.mm_projector."
RESAMPLER = "model.vision_resampler."
_STEMS = ("vision_tower.vision_tower.", "vision_tower.")


def tower_places(names: Sequence[str]) -> list[str]:
    """What the names of each tower among `names` begin with, that of the original code first."""
    usual = [TOWER] if any(name.startswith(TOWER) for name in names) else []
    return apart([*usual, *(place for stem in _STEMS for place in places(stem, names))])


def with_usual_names(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` with tower and projector where the code of original LLaVA has them.

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
