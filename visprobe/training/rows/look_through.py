"""What of a run's rows can be trained on, by its recipe and its model, and what is said about the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from visprobe.data.progress import Progress
from visprobe.data.rows import Rows
from visprobe.mllm.conversation import Conversations
from visprobe.training.recipe import Recipe
from visprobe.training.rows.check import Survey, merged, survey
from visprobe.training.stages import stage_of

MAX_BAD = "1%"


def conversations(processor: Any, config: Any, recipe: Recipe) -> Conversations:
    """How a model of `config` is told rows, with the room that the recipe leaves for them."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        positions -= stage_of(recipe).new_tokens(recipe)
    return Conversations(processor, end_turns=recipe.end_of_turn == "auto", positions=positions)


def look_through(rows: Rows, recipe: Recipe, told: Conversations, progress: Progress | None = None) -> Survey:
    """Look at all rows; several processes share them among themselves, and each gets what all have found."""
    processes = PartialState(cpu=not torch.cuda.is_available())
    mine = range(processes.process_index, len(rows), processes.num_processes)
    need, image_required = stage_of(recipe).need, recipe.image_required
    found = survey(rows, need, told.check, image_required=image_required, indices=mine, progress=progress)
    return found if processes.num_processes == 1 else merged(gather_object([found]))


def in_manifest(found: Survey) -> dict[str, Any]:
    """What the manifest says of rows beside their number."""
    return {
        "skipped": found.reasons,
        "examples": dict(found.examples),
        "fields_not_used": {name: list(fields) for name, fields in found.unused.items()},
        "prompts": found.prompts_hash,
    }


def notes(found: Survey, told: Conversations, name: str) -> Iterator[str]:
    """What of the rows is not used, and what is added to them, one sentence each."""
    if found.skipped:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in found.reasons.items())
        total = len(found.prompts) + len(found.skipped)
        yield f"{len(found.skipped)} of {total} rows of {name} are not used: {reasons}"
    for source, fields in found.unused.items():
        yield f"{source}: not used: {', '.join(fields)}"
    if told.end_of_turn.endswith(" added"):
        end = told.end_of_turn.removesuffix(" added")
        yield (
            f"the chat template writes no end of turn: answers end with {end} (--set end_of_turn=none leaves it out)"
        )
