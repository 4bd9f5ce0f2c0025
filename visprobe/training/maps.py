"""Maps of a few pictures while a model is trained, which trains on as if nobody had looked.

A run's folder gets attribution.npz with all maps, attribution.jsonl with a line of numbers per step, and
attribution/step-000100.png.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from visprobe.attribution.attributions import Attributions
from visprobe.attribution.evidence.focus import Floats
from visprobe.attribution.evidence.per_image import lowest, measured
from visprobe.attribution.methods.by_name import Maps, maps
from visprobe.attribution.storage import load, save
from visprobe.attribution.targets.answers import MllmSubject
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import TrainingError
from visprobe.io.atomic import write_bytes
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.proportions import proportion
from visprobe.mllm.question import Question
from visprobe.training.callbacks import EverySteps
from visprobe.training.dynamics import random_state_kept
from visprobe.training.run_folder.by_step import ATTRIBUTION, append_line, map_figure, read_lines

_FEATURES = "get_image_features"  # preference trainers let it give the features of an image once per answer


@dataclass(frozen=True)
class TrackedExamples:
    """What is looked at, the same at every step.

    Attributes:
        ids: Name of each picture.
        images: The pictures, RGB.
        questions: What is asked of each.
        regions: Share of each patch that the answer's region fills, or None where nobody says.
        target: Which number is explained, as `MllmSubject` names it.
        method: Method of the maps.
        encoder: Encoder of the base: its geometry and processor.
        processor: Processor of the whole model.
    """

    ids: Sequence[str]
    images: Sequence[Image.Image]
    questions: Sequence[Question]
    regions: Sequence[Floats | None]
    target: str
    method: str
    encoder: VisionEncoder
    processor: Any


Draw = Callable[[TrackedExamples, Attributions], bytes]
"""From the pictures and the maps of all steps so far to a PNG."""


class MapsDuringTraining(EverySteps):
    """Maps of a few pictures at steps 0, `every`, …, and the last, on the model in training itself.

    Whatever goes wrong here is said once and does not stop training. The first process looks, the others go on.

    Args:
        every: Steps between maps.
        folder: The run's folder.
        held: Gives the pictures; called once, at the first step that is looked at.
        draw: Draws the maps of all steps so far.
        warn: Told what went wrong.
    """

    def __init__(
        self, every: int, folder: Path, held: Callable[[], TrackedExamples], draw: Draw, warn: Callable[[str], None]
    ) -> None:
        super().__init__(every)
        self._folder, self._open, self._draw, self._warn = folder, held, draw, warn
        self._held: TrackedExamples | None = None
        self._said: set[str] = set()

    def refuse(self, args: Any, model: Any) -> None:
        """Refuse a model in shards."""
        refuse_shards(args, model)

    def do(self, state: Any, model: Any) -> None:
        """Look, where this is the first process."""
        if not state.is_world_process_zero:
            return
        step = int(state.global_step)
        try:
            self._record(step, model)
        except Exception as error:  # a look is never worth a training run
            if str(error) not in self._said:
                self._said.add(str(error))
                self._warn(f"maps of step {step} failed, training goes on: {type(error).__name__}: {error}")

    def _record(self, step: int, model: Any) -> None:
        started = time.perf_counter()
        with undisturbed(model):
            held = self._held = self._held or self._open()
            subject = MllmSubject(model, held.processor, held.encoder, held.questions, held.target)
            found = self._joined(held, step, maps(subject, held.images, [held.method], batch=len(held.images)))
            save(found, self._folder / f"{ATTRIBUTION}.npz")
            write_bytes(map_figure(self._folder, step), self._draw(held, found))
        seconds = round(time.perf_counter() - started, 3)
        lines = self._folder / f"{ATTRIBUTION}.jsonl"
        if all(line["step"] != step for line in read_lines(lines)):
            how = {"target": held.target, "method": held.method}
            append_line(lines, {"step": step, "seconds": seconds, **how, **line_of(found, step)})

    def _joined(self, held: TrackedExamples, step: int, found: Maps) -> Attributions:
        """The maps of all steps up to `step`; later ones are of before a resume."""
        path = self._folder / f"{ATTRIBUTION}.npz"
        before = load(path).maps if path.is_file() else {}
        kept = {name: made for name, made in before.items() if step_of(name) < step}
        all_maps = {**kept, name_of(step): found}
        return Attributions(tuple(all_maps), (), all_maps, held.regions, held.ids)


def name_of(step: int) -> str:
    """Name of the maps of a step in attribution.npz."""
    return f"step {step}"


def step_of(name: str) -> int:
    """The inverse of `name_of`."""
    return int(name.removeprefix("step "))


def line_of(found: Attributions, step: int) -> dict[str, Any]:
    """The numbers of a step as a line of attribution.jsonl holds them.

    Args:
        found: Maps of all steps so far.
        step: The step.

    Returns:
        "scores" by picture; "score" and each measure of focus as {"value", "low", "high", "n"}: mean over pictures and
        its 95 % t interval, for pointing Wilson's. Measures that are defined for fewer than two pictures are left out.
    """
    name = name_of(step)
    [own] = found.maps[name].values()
    scores = [one.score for one in own]
    numbers = {"score": np.array(scores)} | {measure: values for (_, measure), values in measured(found, name)}
    means = {}
    for measure, values in numbers.items():
        known = values[~np.isnan(values)]
        if len(known) > 1:
            means[measure] = _mean(measure, known)
    return {"scores": dict(zip(found.images, scores, strict=True)), **means}


def _mean(measure: str, values: Floats) -> dict[str, float]:
    if measure == "pointing":  # yes or no
        mean = proportion(values > 0)
    else:
        scale = Scale("") if measure == "score" else Scale("", lowest(measure), 1)
        mean = clustered_mean(values, np.arange(len(values)), scale)
    return {"value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Leave random numbers, training modes, gradients and what is trainable as they were, to the bit.

    Args:
        model: The model; inside the block it may be put into evaluation mode and frozen, and it gives the features
            of an image as its class does, whatever a trainer has put in the place of that.
    """
    patched = [(module, vars(module).pop(_FEATURES)) for module in model.modules() if _FEATURES in vars(module)]
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    try:
        with random_state_kept():
            yield
    finally:
        for module, features in patched:
            vars(module)[_FEATURES] = features
        for module, training in modes:
            module.training = training
        for weight, trainable, gradient in weights:
            weight.requires_grad_(trainable)
            weight.grad = gradient


def refuse_shards(args: Any, model: Any) -> None:
    """Refuse DeepSpeed ZeRO-3 and FSDP, under which no process holds the whole model.

    Args:
        args: The trainer's arguments.
        model: The model as the trainer has prepared it.

    Raises:
        TrainingError: If the model is in shards.
    """
    zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    wrapped = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    if zero3 or wrapped or any(isinstance(weight, DTensor) for weight in model.parameters()):
        raise TrainingError(
            "maps cannot be drawn during training under DeepSpeed ZeRO-3 or FSDP: no process holds the whole model",
            hint="Leave attribution_every out; visprobe gradcam --trajectory RUN draws them from the copies of "
            "snapshot_tower_every.",
        )
