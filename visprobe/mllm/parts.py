"""Parts of an MLLM (vision tower, projector, language model), and the choice of those that are trained."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from torch import nn

from visprobe.encoders.families import MODEL_OF, MODELS, TOWER_OF, TOWERS
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.model import Model
from visprobe.errors import TrainingError, UsageError

PARTS = ("vision_tower", "projector", "language_model")
_RANGE = re.compile(r"vision_tower\.blocks\[(\d*):(\d*)\]")
# Prefixes that wrappers (DDP, compile, FSDP, PEFT) add to names.
_WRAPPERS = re.compile(r"(?:^base_model\.model\.|^module\.|_orig_mod\.|_fsdp_wrapped_module\.)")


@cache
def _prefixes() -> Mapping[str, tuple[str, ...]]:
    """Return name prefixes of each part in all families; projectors first, since Qwen's lie inside the tower."""
    spelled = [model.in_memory for model in MODELS]
    return {
        "projector": tuple(
            {p for one in spelled for p in one.connector.values()} | {p for m in MODELS for p in m.beside}
        ),
        "vision_tower": tuple({one.tower for one in spelled}),
        "language_model": tuple({prefix for model in MODELS for prefix in model.language}),
    }


@cache
def _tower_block() -> re.Pattern[str]:
    paths = "|".join(re.escape(family.blocks[0][0]) for family in TOWERS)
    return re.compile(rf"(?:{paths})\.(\d+)\.")


def part_of(parameter: str) -> str:
    """Return the part of an MLLM that a parameter belongs to, by its name in memory.

    Raises:
        TrainingError: If the name belongs to no known part.
    """
    name = _unwrapped(parameter)
    for part, prefixes in _prefixes().items():
        if name.startswith(prefixes):
            return part
    raise TrainingError(
        f"the parameter {parameter} belongs to no known part",
        hint=f"visprobe trains models of transformers of these families: {', '.join(model.name for model in MODELS)}.",
    )


def tower_block(parameter: str) -> int | None:
    """Return the index, from 0, of the tower block that a parameter belongs to; None outside the blocks."""
    found = _tower_block().match(_in_tower(parameter)) if part_of(parameter) == "vision_tower" else None
    return int(found[1]) if found else None


def selected(item: str, names: Collection[str]) -> set[str]:
    """Select the parameters that `item` stands for.

    Args:
        item: A part, or a range of the tower's blocks: "vision_tower.blocks[8:12]".
        names: All parameters of the model.

    Raises:
        UsageError: If there is no such part or block.
    """
    if item in PARTS:
        return {name for name in names if part_of(name) == item}
    found = _RANGE.fullmatch(item.replace(" ", ""))
    if found is None:
        raise UsageError(
            f"no such part: {item}", hint=f"The parts are {', '.join(PARTS)}, and vision_tower.blocks[8:12]."
        )
    count = _block_count(names)
    start, stop = int(found[1] or 0), int(found[2] or count)
    if not start < stop <= count:
        raise UsageError(f"{item} does not fit a tower of {count} blocks", hint=f"Count from 0, end at {count}.")
    return {name for name in names if (block := tower_block(name)) is not None and start <= block < stop}


def train_only(model: nn.Module, parts: Collection[str]) -> list[str]:
    """Make exactly the named parts trainable, less what the loss can never reach.

    Args:
        model: An MLLM of transformers.
        parts: Parts, and ranges of the tower's blocks as slices: "vision_tower.blocks[8:12]" are the 9th to 12th.

    Returns:
        Names that stay frozen in any case; see `off_path`.

    Raises:
        UsageError: If a part or a block does not exist, or the model reads none of the blocks asked for.
    """
    names = [name for name, _ in model.named_parameters()]
    unreachable = off_path(model)
    wanted: set[str] = set()
    for item in parts:
        chosen = selected(item, names)
        if chosen and chosen <= set(unreachable):
            raise UsageError(f"the model never reads {item}", hint="Choose blocks nearer to the input.")
        wanted |= chosen
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted and name not in unreachable)
    return unreachable


def off_path(model: Any) -> list[str]:
    """Return sorted names of the tower's parameters after the layer that the model reads, which no loss can reach.

    They have to be frozen before training: distributed training waits for the gradient of every trainable parameter.

    Raises:
        TrainingError: If the model is of no known family.
    """
    row, family = _family(model)
    vision = model.config.vision_config
    names = [name for name, _ in model.named_parameters() if part_of(name) == "vision_tower"]
    groups = {name: family.weight_group(_in_tower(name), vision) for name in names}
    unread = family.off_path(groups.values(), max(row.reads(model.config, family)[0]))
    return sorted(name for name in names if groups[name] in unread or _in_tower(name).startswith(family.unread))


def blocks_to_shard(model: Any) -> list[str]:
    """Return class names of the blocks of tower and language model, which FSDP wraps one by one.

    Raises:
        TrainingError: If the model is of no known family.
    """
    row, family = _family(model)
    tower = family.tower_blocks(model.get_submodule(row.in_memory.tower.removesuffix(".")))
    return sorted({type(block).__name__ for block in (*tower, *model.get_decoder().layers)})


def _family(model: Any) -> tuple[Model, Family]:
    row, vision = MODEL_OF.get(model.config.model_type), getattr(model.config, "vision_config", None)
    kind = getattr(vision, "model_type", "")
    family = TOWER_OF.get(kind)
    if row is None or family is None:
        raise TrainingError(
            f"no family is known of a {model.config.model_type} with a tower of type {kind or 'none'}",
            hint="visprobe families lists those that can be trained and measured.",
        )
    return row, family


def _block_count(names: Iterable[str]) -> int:
    return max((block + 1 for block in map(tower_block, names) if block is not None), default=0)


def _unwrapped(parameter: str) -> str:
    return _WRAPPERS.sub("", parameter)


def _in_tower(parameter: str) -> str:
    name = _unwrapped(parameter)
    for prefix in _prefixes()["vision_tower"]:
        name = name.removeprefix(prefix)
    return name
