"""Training runs measured step by step: the base, the snapshots of the tower, the finished model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visprobe.analyses.drift.drift import rounding_of
from visprobe.analyses.runs.trajectory import State, measure_step, trajectory_result, trajectory_verdict
from visprobe.data.labels.annotated import no_classes
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import UsageError
from visprobe.features.requests import read_sites
from visprobe.io.disk import plain_errors
from visprobe.pipelines.compare import refuse_other_shapes
from visprobe.pipelines.measurement import Measurement, Options, as_list
from visprobe.pipelines.session import Session, distinct_names, format_baselines, open_encoders, provenance_of
from visprobe.results.result import Result
from visprobe.training.run_folder.by_step import snapshots
from visprobe.training.run_folder.manifest import NAME, weights_hash

TOGETHER = 4  # encoders in memory at a time: each image is decoded once for all of them


@dataclass(frozen=True)
class Run:
    """A training run on disk.

    Attributes:
        folder: Folder of the run.
        moments: Checkpoint folder by step, in order; the last is the finished model, if there is one.
        manifest: Content of the manifest; empty while the run is not finished.
    """

    folder: Path
    moments: dict[int, Path]
    manifest: dict[str, Any]


@plain_errors
def trajectory(
    runs: str | Path | Sequence[str | Path],
    data: str | Path,
    options: Options | None = None,
    base: str | Path | None = None,
) -> Measurement:
    """Measure the change of weights, of features and of accuracy at each saved step of training runs from one base.

    Args:
        runs: Folders of runs that kept snapshots of tower and projector (`snapshot_tower_every`).
        data: Folder or name of an image set, for `open_images`.
        options: Options of the measurement.
        base: Checkpoint that the runs started from; by default the one in their manifests.

    Returns:
        One "trajectory" result: by step the relative change of the weights, CKA to the base and top-1 accuracy
        (fractions of 1), with 95 % intervals; and its verdict.

    Raises:
        UsageError: If a run has no snapshots, the base is not known or gone, or the runs have different bases.
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.trajectory(["checkpoints/sft", "checkpoints/dpo"], "digits")`
    """
    options = options or Options()
    folders = [Path(folder) for folder in as_list(runs)]
    found = [read_run(folder) for folder in folders]
    start = Path(base) if base is not None else base_of(found)
    warnings = list(run_warnings(found, start))
    names = distinct_names([start, *folders])
    following = TrajectoryRunner(start, names[0], data, options)
    for run, name in zip(found, names[1:], strict=True):
        following.follow(run, name)
    return following.measurement(warnings)


def read_run(folder: Path) -> Run:
    """Read the snapshots and the manifest of a run.

    Args:
        folder: Folder of the run.

    Raises:
        UsageError: If it holds no snapshots of the tower.
    """
    moments = snapshots(folder)
    if not moments:
        raise UsageError(
            f"{folder} holds no copies of the tower by step",
            hint="Train with --snapshot-tower-every N; to compare its end alone, visprobe compare BASE RUN.",
        )
    path = folder / NAME
    manifest = json.loads(path.read_text()) if path.is_file() else {}  # absent until a run is finished
    if manifest:
        moments[manifest["seen"]["steps"]] = folder  # replaces the snapshot of this step, which is rounded to bfloat16
    return Run(folder, dict(sorted(moments.items())), manifest)


def base_of(runs: Sequence[Run]) -> Path:
    """Return the checkpoint that the runs started from.

    Args:
        runs: Training runs.

    Raises:
        UsageError: If no manifest names it, or it is gone.
    """
    named = [Path(run.manifest["base"]) for run in runs if run.manifest]
    for path in named:
        if path.is_dir():
            return path
    problem = f"the base of {runs[0].folder} is gone: {named[0]}" if named else f"{runs[0].folder} is not finished"
    raise UsageError(
        problem,
        hint="Name the base: visprobe compare BASE --trajectory RUN --data DATA, or visprobe gradcam IMAGES "
        "--trajectory RUN --ckpt BASE",
    )


def run_warnings(runs: Sequence[Run], start: Path) -> Iterator[str]:
    """Yield warnings about runs whose base, state or number format limits the comparison.

    Args:
        runs: Training runs.
        start: Checkpoint that they are compared with.

    Raises:
        UsageError: If the runs started from different checkpoints.
    """
    hashes = {run.folder: run.manifest["inputs"]["base"] for run in runs if run.manifest}
    if len(set(hashes.values())) > 1:
        raise UsageError(
            f"the runs did not start from one base: {', '.join(map(str, hashes))}", hint="Follow runs of one base."
        )
    if hashes and weights_hash(start) not in hashes.values():
        yield f"the weights of {start} are not those that {next(iter(hashes))} started from"
    for run in runs:
        if not run.manifest:
            yield f"{run.folder} is not finished: its last moment is step {max(run.moments)} so far"
    yield (
        "copies of the tower are rounded to bfloat16, finished models are not: a distance of a copy near that of the "
        "rounded base is rounding, and so are the last digits of its weight change"
    )


class TrajectoryRunner:
    """Measurement of every step of every run against the base, whose features are extracted once."""

    def __init__(self, base: Path, name: str, data: str | Path, options: Options) -> None:
        self._options = options
        [self._encoder] = open_encoders([base], options)
        self._encoder.name = name
        baselines = [self._encoder.untrained(options.seed), *format_baselines(base, self._encoder, options)]
        self._session = Session([self._encoder], baselines, data, options)
        self._base, self._untrained, *self._noise = self._states([self._encoder, *baselines])
        self._rounding = rounding_of(self._base.query, [state.query for state in self._noise])
        self._checkpoints = [provenance_of(self._encoder)]
        self._steps: list[Result] = []
        self._runs: dict[str, list[dict[str, Any]]] = {}

    @property
    def _accuracy(self) -> bool:
        return self._session.images.query.classes is not None

    def follow(self, run: Run, name: str) -> None:
        """Measure every saved step of `run`."""
        moments = [(step, path, f"{name} step {step}") for step, path in run.moments.items()]
        self._runs[name] = [{"step": step, "checkpoint": label} for step, _, label in moments]
        for first in range(0, len(moments), TOGETHER):
            some = moments[first : first + TOGETHER]
            encoders = open_encoders([path for _, path, _ in some], replace(self._options, progress=None))
            refuse_other_shapes(self._encoder, encoders)
            for encoder, (_, _, label) in zip(encoders, some, strict=True):
                encoder.name = label
            self._checkpoints += map(provenance_of, encoders)
            self._steps += [
                measure_step(self._base, state, self._encoder.weight_group, self._rounding, accuracy=self._accuracy)
                for state in self._states(encoders)
            ]
            if self._options.progress:
                self._options.progress(f"follow {name}", first + len(some), len(moments))

    def measurement(self, warnings: list[str]) -> Measurement:
        """Return the measurement of all runs so far."""
        result = trajectory_result(
            self._base, self._noise, self._untrained, self._steps, self._runs, accuracy=self._accuracy
        )
        if not self._accuracy:
            warnings.append(f"accuracy was not measured: {no_classes(self._session.images.query)}")
        measured = self._session.measurement([result], trajectory_verdict(result), warnings)
        once = {images["name"]: images for images in measured.data}
        return replace(measured, checkpoints=tuple(self._checkpoints), data=tuple(once.values()))

    def _states(self, encoders: Sequence[VisionEncoder]) -> list[State]:
        images = self._session.images
        query = self._session.extract(images.query, read_sites, encoders)
        support: Sequence[Any] = [None] * len(encoders)
        if images.support is not None and self._accuracy:
            support = self._session.extract(images.support, read_sites, encoders)
        return [State(q, s, e.weights()) for q, s, e in zip(query, support, encoders, strict=True)]
