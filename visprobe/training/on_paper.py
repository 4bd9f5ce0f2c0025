"""Plan of a run before it starts: its steps, rows, trainable parameters and memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from visprobe.mllm.parts import PARTS, part_of, train_only
from visprobe.training.launch import process_count
from visprobe.training.models.lora import add_adapters
from visprobe.training.recipe import Recipe
from visprobe.training.rows.check import Survey
from visprobe.training.stages import stage_of

_WEIGHT, _GRADIENT, _ADAM = 4, 4, 8  # bytes per parameter: weights are kept in float32 whatever is computed in


@dataclass(frozen=True)
class Plan:
    """Plan of a run that has not been started.

    Attributes:
        stage: Name of the training stage.
        rows: Name of the rows.
        count: Number of rows.
        used: Number of rows that can be trained on.
        steps: Optimizer steps.
        rows_per_step: Rows per optimizer step, over all processes; the last step of a pass may have fewer.
        seen: Rows over all steps, repeated ones counted each time.
        parameters: Trainable and total number of parameters, by part of the model.
        memory: Bytes per process by purpose, without activations and without savings from sharding.
        room: Memory of the device in bytes.
        device: Name of the device.
    """

    stage: str
    rows: str
    count: int
    used: int
    steps: int
    rows_per_step: int
    seen: int
    parameters: Mapping[str, tuple[int, int]]
    memory: Mapping[str, int]
    room: int
    device: str


def plan(model: Any, recipe: Recipe, found: Survey, rows: str) -> Plan:
    """Plan the training of `model` by `recipe` on surveyed rows.

    Args:
        model: The model, possibly on the meta device. Changed in place (frozen, adapters) as a run would change it.
        recipe: The settings.
        found: Survey of the rows.
        rows: Name of the rows.

    Raises:
        UsageError: If a part that is to be trained does not exist.
    """
    train_only(model, recipe.train)
    if recipe.lora is not None:
        add_adapters(model, recipe.lora)
    parameters = {part: (0, 0) for part in PARTS}
    for name, parameter in model.named_parameters():
        trained, there = parameters[part_of(name)]
        size = parameter.numel()
        parameters[part_of(name)] = (trained + size * parameter.requires_grad, there + size)
    trained, there = (sum(numbers) for numbers in zip(*parameters.values(), strict=True))
    memory = {"weights": there * _WEIGHT, "gradients": trained * _GRADIENT, "optimizer": trained * _ADAM}
    device, room = _device()
    steps = steps_of(recipe, len(found.prompts), process_count())
    return Plan(
        stage=recipe.stage,
        rows=rows,
        count=len(found.prompts) + len(found.skipped),
        used=len(found.prompts),
        steps=steps,
        rows_per_step=recipe.batch_size * recipe.gradient_accumulation * process_count(),
        seen=seen(recipe, steps, len(found.prompts), process_count())["rows"],
        parameters=parameters,
        memory={**memory, "reference": there * _WEIGHT} if stage_of(recipe).copies_model(recipe) else memory,
        room=room,
        device=device,
    )


def rows_per_pass(recipe: Recipe, count: int, processes: int) -> int:
    """Return the rows of `count` that one pass trains on: some stages drop partial batches, drop_last partial steps."""
    batch = recipe.batch_size * processes
    if stage_of(recipe).whole_batches:
        count -= count % batch
    if recipe.drop_last:
        count -= count % (batch * recipe.gradient_accumulation)
    return count


def steps_of(recipe: Recipe, count: int, processes: int) -> int:
    """Return the number of optimizer steps of a run over `count` rows."""
    if recipe.steps:
        return recipe.steps
    per_step = recipe.batch_size * processes * recipe.gradient_accumulation
    return math.ceil(recipe.epochs * math.ceil(rows_per_pass(recipe, count, processes) / per_step))


def seen(recipe: Recipe, steps: int, count: int, processes: int) -> dict[str, int]:
    """Count the rows, different rows and answers that `steps` steps over `count` rows take.

    The last step of a pass may be smaller, or dropped. Dropped rows differ from pass to pass, so for several passes
    "different_rows" is a lower bound.
    """
    per_step = recipe.batch_size * processes * recipe.gradient_accumulation
    count = rows_per_pass(recipe, count, processes)
    passes, rest = divmod(steps, math.ceil(count / per_step))
    rows = passes * count + min(rest * per_step, count)
    responses = rows * stage_of(recipe).responses(recipe)
    return {"steps": steps, "rows": rows, "different_rows": min(rows, count), "responses": responses}


def _device() -> tuple[str, int]:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    return "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
