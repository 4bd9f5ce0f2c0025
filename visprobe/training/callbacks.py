"""Trainer callbacks: progress, metrics, gradient checks and copies of the vision tower."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from visprobe.data.progress import Progress
from visprobe.errors import TrainingError
from visprobe.io.atomic import replacing
from visprobe.io.containers.safetensors_files import save_tensors
from visprobe.mllm.parts import PARTS, part_of
from visprobe.training.launch import process_count
from visprobe.training.models.lora import merged_weights
from visprobe.training.recipe import Recipe
from visprobe.training.run_folder.by_step import COMPLETE, METRICS, append_line, forget_after, read_lines, snapshot_path
from visprobe.training.stages import stage_of

_IDLE = 20  # steps without any gradient after which a run is given up


class Watch(TrainerCallback):  # type: ignore[misc]
    """Callback that reports progress and metrics and stops a run on missing gradients or a non-finite loss.

    Args:
        recipe: The settings.
        folder: The run's folder; metrics.jsonl is appended there by the first process.
        progress: Called with (stage, step, steps).
    """

    def __init__(self, recipe: Recipe, folder: Path, progress: Progress | None) -> None:
        self._recipe, self._folder, self._progress = recipe, folder, progress
        self._last = time.perf_counter()
        self._checked, self._idle, self._began = False, 0, 0
        self.without_gradient: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Drop metrics and copies of steps that will be repeated after a resume."""
        self._began = state.global_step
        if state.is_world_process_zero:
            forget_after(self._folder, state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Refuse a part that should train and gets no gradient, at the first step with a non-zero gradient.

        Nothing is checked under DeepSpeed, which keeps gradients to itself.
        """
        if self._checked or args.deepspeed_plugin is not None:
            return
        if not taught_nothing(model):
            self._checked = True
            self.without_gradient = check_gradients(model)
            return
        self._idle += 1
        if self._idle == _IDLE and not self._began:  # a resumed run may have learned before the interruption
            raise self._nothing_learned()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refuse a run in which no step had a gradient, before it is saved as a trained model."""
        if self._idle and not self._checked and not self._began:
            raise self._nothing_learned()

    def _nothing_learned(self) -> TrainingError:
        return stage_of(self._recipe).nothing_learned(self._recipe, self._idle, read_metrics(self._folder))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report progress, and log the last step whatever `log_every` is."""
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._progress and state.is_world_process_zero:
            self._progress(f"train {self._recipe.stage}", state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append the step's numbers to metrics.jsonl, and stop where the loss or gradient norm is not finite."""
        if not logs or "loss" not in logs:
            return
        numbers = {key: float(value) for key, value in logs.items() if value is not None}
        # A non-finite gradient has already spoilt the weights, except in float16, where the scaler skips such a step.
        watched = ("loss",) if self._recipe.precision == "float16" else ("loss", "grad_norm")
        if broken := [key for key in watched if not math.isfinite(numbers.get(key, 0.0))]:
            per_step = self._recipe.batch_size * self._recipe.gradient_accumulation * process_count()
            first = max(0, state.global_step - self._recipe.log_every)
            raise TrainingError(
                f"the {broken[0]} is {numbers[broken[0]]} at step {state.global_step}; rows of about "
                f"{per_step * first} to {per_step * state.global_step} in training order",
                hint=f"Lower learning_rate (now {self._recipe.learning_rate:g}) and train with --overwrite or into "
                "another folder; until then the last checkpoint, if any, is kept.",
            )
        if state.is_world_process_zero:
            now = time.perf_counter()
            line = {"step": state.global_step, "seconds": round(now - self._last, 4), **numbers}
            self._last = now
            append_line(self._folder / METRICS, line)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint just written as complete; one without the mark is never resumed from."""
        PartialState().wait_for_everyone()  # each process writes the state of its own random numbers
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for file in checkpoint.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            (checkpoint / COMPLETE).touch()


class Snapshots(TrainerCallback):  # type: ignore[misc]
    """Callback that saves vision tower and projector every few steps, as folders visprobe reads as checkpoints.

    Args:
        every: Steps between copies.
        folder: The run's folder; copies go to snapshots/step-000100/.
        processor: Saved beside the weights.
        dtype: Number format of the copies.
    """

    def __init__(self, every: int, folder: Path, processor: Any, dtype: torch.dtype = torch.bfloat16) -> None:
        self._every, self._folder, self._processor, self._dtype = every, folder, processor, dtype

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refuse ZeRO-3."""
        refuse_zero3(args, "snapshot_tower_every")

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Write a copy if this step is due."""
        if state.global_step % self._every == 0:
            save_vision(model, self._processor, snapshot_path(self._folder, state.global_step), self._dtype)


class EverySteps(TrainerCallback):  # type: ignore[misc]
    """Callback that acts at steps 0, `every`, …, and the last; not at the start of a resumed run.

    Args:
        every: Steps between calls of `do`.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._last: int | None = None

    def refuse(self, args: Any, model: Any) -> None:
        """Refuse a setup the action cannot run under."""

    def do(self, state: Any, model: Any) -> None:
        """Act on the model; called once per step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Act at step 0."""
        self.refuse(args, model)
        if state.global_step == 0:
            self._now(state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Act if this step is due."""
        if state.global_step % self._every == 0:
            self._now(state, model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Act at the last step."""
        self._now(state, model)

    def _now(self, state: Any, model: Any) -> None:
        if self._last != state.global_step:
            self._last = state.global_step
            self.do(state, model)


def refuse_zero3(args: Any, setting: str) -> None:
    """Refuse DeepSpeed ZeRO-3, under which no process can see the tower's weights.

    Args:
        args: The trainer's arguments.
        setting: The recipe's setting that asks for them.

    Raises:
        TrainingError: If training runs under ZeRO-3.
    """
    if args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3:
        raise TrainingError(
            "the tower cannot be copied during training under DeepSpeed ZeRO-3",
            hint=f"Leave {setting} out, or train with FSDP2 (visprobe/training/configs/fsdp2.yaml).",
        )


def save_vision(model: Any, processor: Any, path: Path, dtype: torch.dtype) -> None:
    """Save vision tower and projector of an MLLM, with its configuration and processor, as one folder.

    Every process has to call it: gathering sharded weights is collective. The first process writes.
    """
    weights = {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().to(dtype).contiguous().cpu()
        for name, value in merged_weights(model).items()
        if part_of(name) != "language_model"
    }
    if not PartialState().is_main_process:
        return
    with replacing(path) as folder:
        folder.mkdir()
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        save_tensors(weights, folder / "model.safetensors")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl; a last line cut short by a kill is left out."""
    return read_lines(folder / METRICS)


def without_gradient(model: nn.Module) -> Iterator[str]:
    """Yield names of trainable parameters that the last backward pass did not reach."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            continue  # its gradient is zero at the first step, where lora_B still is
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.any())):
            yield name


def taught_nothing(model: nn.Module) -> bool:
    """Return whether all trainable parameters got gradients and all are zero: a GRPO step of equal rewards."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return all(gradient is not None and not bool(gradient.any()) for gradient in gradients)


def check_gradients(model: nn.Module) -> list[str]:
    """Refuse a part that is meant to train and gets no gradient.

    Returns:
        Trainable parameters without gradient inside parts that do train (a post_layernorm that the MLLM
        never reads, for example), sorted.

    Raises:
        TrainingError: If a whole part gets no gradient; the message names its parameters.
    """
    unreached = sorted(without_gradient(model))
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for part in PARTS:
        names = [name for name in trainable if part_of(name) == part]
        if names and set(names) <= set(unreached):
            raise TrainingError(
                f"{part} is meant to train but none of its {len(names)} parameters gets a gradient: "
                + ", ".join(names[:3])
                + (", …" if len(names) > 3 else ""),
                hint=f"Leave {part} out of the trained parts, or find what detaches it (no_grad in its forward?).",
            )
    return unreached
