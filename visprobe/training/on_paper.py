"""What a run would be: its steps, its rows, what of the model it would train, and the memory that this takes."""

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
    """A run that has not been started.

    Attributes:
        stage: What would be trained.
        rows: Name of the rows.
        count: Rows that there are.
        used: Rows that can be trained on.
        steps: Optimizer steps.
        rows_per_step: Rows in each, over all processes; the last of a pass may have fewer.
        seen: Rows that go into all of them, each as often as it does.
        parameters: Of each part of the model, how many numbers would be trained and how many there are.
        memory: Bytes of each process, by what they are for, without activations and without what sharding saves.
        room: Bytes of memory that the device has.
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
    """What training `model` by `recipe` on the rows in `found` would be.

    Args:
        model: The model; its weights may be on the meta device. It is changed as a run would change it.
        recipe: The settings.
        found: What a look at the rows found.
        rows: Their name.

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
    """How many of `count` rows a pass trains on: a stage may leave out what fills no batch, drop_last what no step."""
    batch = recipe.batch_size * processes
    if stage_of(recipe).whole_batches:
        count -= count % batch
    if recipe.drop_last:
        count -= count % (batch * recipe.gradient_accumulation)
    return count


def steps_of(recipe: Recipe, count: int, processes: int) -> int:
    """Optimizer steps of a run over `count` rows."""
    if recipe.steps:
        return recipe.steps
    per_step = recipe.batch_size * processes * recipe.gradient_accumulation
    return math.ceil(recipe.epochs * math.ceil(rows_per_pass(recipe, count, processes) / per_step))


def seen(recipe: Recipe, steps: int, count: int, processes: int) -> dict[str, int]:
    """How many rows, how many different ones of them, and how many answers went into `steps` steps over `count` rows.

    The last step of each pass over the rows has what is left of them, unless they are left out. What is left out is
    different in each pass, so that of several passes the different rows are at least so many.
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
