"""Measurements during training: drift of the encoder from the base, and prototype accuracy."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visprobe.analyses.runs.trajectory import State, measure_step
from visprobe.data.image_set import ImageSet
from visprobe.data.open import open_images
from visprobe.encoders.load import load_encoder
from visprobe.features.extract import extract
from visprobe.features.feature_set import FeatureSet, first_of_each, with_rows
from visprobe.features.requests import read_sites
from visprobe.features.store import FeatureStore
from visprobe.results.result import Estimate, Result
from visprobe.training.callbacks import EverySteps, refuse_zero3, save_vision
from visprobe.training.recipe import Recipe
from visprobe.training.run_folder.by_step import DYNAMICS, append_line, read_lines

LIMIT = 256  # images per split: a probe then takes seconds, and CKA is known well enough to see it move
NOW = "now"


class Probe(EverySteps):
    """Callback that measures drift from the base and prototype accuracy at steps 0, `probe_every`, …, and the last.

    Each measurement is a line of dynamics.jsonl in the run's folder: "step", "seconds" it took, "n" images,
    "cka" and "top1" (with "top1_difference", paired, to the base) by site as {"value", "low", "high"}, and
    "relative_change" of the weights of "tower" and "projector". The images are the same in every run, whatever its
    seed. Training goes on with the bits it would have without the probe.

    Args:
        recipe: The settings `probe_every` and `probe_images`.
        base: Checkpoint folder that training started from.
        folder: The run's folder.
        processor: The model's processor.

    Raises:
        CheckpointError: If visprobe cannot read the encoder of `base`.
        DataError: If the images cannot be read.
    """

    def __init__(self, recipe: Recipe, base: Path, folder: Path, processor: Any) -> None:
        super().__init__(recipe.probe_every)
        self._folder, self._processor = folder, processor
        with random_state_kept():
            self._images = open_images(recipe.probe_images, limit=LIMIT)
            self._encoder = load_encoder(base)
        self._base: State | None = None

    def refuse(self, args: Any, model: Any) -> None:
        """Refuse DeepSpeed ZeRO-3."""
        refuse_zero3(args, "probe_every")

    def do(self, state: Any, model: Any) -> None:
        """Append a line to dynamics.jsonl, unless the step has one from before a resume."""
        step, started = state.global_step, time.perf_counter()
        with random_state_kept(), tempfile.TemporaryDirectory(prefix="visprobe-probe-") as scratch:
            save_vision(model, self._processor, Path(scratch) / NOW, torch.float32)  # every process takes part
            path = self._folder / DYNAMICS
            if state.is_world_process_zero and all(line["step"] != step for line in read_lines(path)):
                numbers = line_of(self._compare(Path(scratch), next(model.parameters()).device))
                append_line(path, {"step": step, "seconds": round(time.perf_counter() - started, 3), **numbers})

    def _compare(self, scratch: Path, device: torch.device) -> Result:
        if self._base is None:
            self._base = self._see(Path(self._encoder.provenance.path), scratch, device)
        now = self._see(scratch / NOW, scratch, device)
        return measure_step(
            self._base, now, self._encoder.weight_group, accuracy=self._images.query.classes is not None
        )

    def _see(self, checkpoint: Path, scratch: Path, device: torch.device) -> State:
        encoder = load_encoder(checkpoint, device=device)
        store = FeatureStore(scratch / "features")  # scratch: features of one step are never asked for again

        def features(images: ImageSet) -> FeatureSet:
            [found] = extract([encoder], images, read_sites, store=store, processors=[self._encoder]).features
            return replace(found, sites=dict(found.sites))  # the store goes with the scratch folder

        query, support = features(self._images.query), self._images.support
        query = with_rows(query, first_of_each(query))  # copies are not independent, and intervals count images
        return State(query, features(support) if support else None, encoder.weights())


def line_of(step: Result) -> dict[str, Any]:
    """Return the numbers of one measurement as a line of dynamics.jsonl.

    Args:
        step: Result of `measure_step`.

    Returns:
        "n" and, by measure, an interval by site.
    """
    line: dict[str, Any] = {"n": max(row.estimate.n for row in step.select(measure="cka"))}
    for row in step.rows:
        key = f"{row.measure}_difference" if row.role == "difference" else row.measure
        line.setdefault(key, {})[row.site] = _interval(row.estimate)
    return line


def _interval(estimate: Estimate) -> float | dict[str, float]:
    if estimate.method == "exact" and estimate.unit == "ratio":
        return estimate.value
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the state of Python's, NumPy's and torch's random number generators after the block."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
