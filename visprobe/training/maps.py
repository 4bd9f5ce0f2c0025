"""Attribution maps of a few images during training, without a change to the training itself.

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

_FEATURES = "get_image_features"  # preference trainers patch it to compute the features of an image once per answer


@dataclass(frozen=True)
class TrackedExamples:
    """Images, questions and settings of the maps, the same at every step.

    Attributes:
        ids: Name of each image.
        images: RGB images.
        questions: Question about each image.
        regions: Per image, the share of each patch that the answer's region fills, or None where unknown.
        target: Number that is explained, by its name in `MllmSubject`.
        method: Attribution method.
        encoder: Encoder of the base, for its geometry and processor.
        processor: Processor of the MLLM.
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
    """Callback that maps a few images at steps 0, `every`, …, and the last, on the model in training.

    An error here is reported once and does not stop training. Only the first process computes maps.

    Args:
        every: Steps between maps.
        folder: The run's folder.
        held: Opens the examples; called once, at the first step with maps.
        draw: Draws the maps of all steps so far.
        warn: Called with a message when maps fail.
    """

    def __init__(
        self, every: int, folder: Path, held: Callable[[], TrackedExamples], draw: Draw, warn: Callable[[str], None]
    ) -> None:
        super().__init__(every)
        self._folder, self._open, self._draw, self._warn = folder, held, draw, warn
        self._held: TrackedExamples | None = None
        self._said: set[str] = set()

    def refuse(self, args: Any, model: Any) -> None:
        """Refuse a sharded model."""
        refuse_shards(args, model)

    def do(self, state: Any, model: Any) -> None:
        """Compute and save maps in the first process; failures become warnings."""
        if not state.is_world_process_zero:
            return
        step = int(state.global_step)
        try:
            self._record(step, model)
        except Exception as error:  # a failed map must not end a training run
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
        """Return the maps of all steps up to `step`, without later ones from before a resume."""
        path = self._folder / f"{ATTRIBUTION}.npz"
        before = load(path).maps if path.is_file() else {}
        kept = {name: made for name, made in before.items() if step_of(name) < step}
        all_maps = {**kept, name_of(step): found}
        return Attributions(tuple(all_maps), (), all_maps, held.regions, held.ids)


def name_of(step: int) -> str:
    """Return the name of a step's maps in attribution.npz."""
    return f"step {step}"


def step_of(name: str) -> int:
    """Return the step of a name made by `name_of`."""
    return int(name.removeprefix("step "))


def line_of(found: Attributions, step: int) -> dict[str, Any]:
    """Return the numbers of a step as a line of attribution.jsonl.

    Args:
        found: Maps of all steps so far.
        step: Step of the line.

    Returns:
        "scores" by image; "score" and each focus measure as {"value", "low", "high", "n"}: mean over images with its
        95 % t interval (Wilson's for pointing). Measures defined for fewer than two images are left out.
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
    """Restore random states, training modes, gradients and requires_grad, bit for bit, after the block.

    Args:
        model: The model. Inside the block it may be put into evaluation mode and frozen, and `get_image_features` is
            the method of its class, without a trainer's patch.
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
        model: The model as the trainer prepared it.

    Raises:
        TrainingError: If the model is sharded.
    """
    zero3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    wrapped = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    if zero3 or wrapped or any(isinstance(weight, DTensor) for weight in model.parameters()):
        raise TrainingError(
            "maps cannot be drawn during training under DeepSpeed ZeRO-3 or FSDP: no process holds the whole model",
            hint="Leave attribution_every out; visprobe gradcam --trajectory RUN draws them from the copies of "
            "snapshot_tower_every.",
        )
