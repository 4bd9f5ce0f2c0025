"""Matched studies: train several arms with several seeds from one base on the same rows, and compare all runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from visprobe.analyses.runs.runs import across_runs, runs_verdict
from visprobe.data.named import named_data
from visprobe.data.rows import Rows
from visprobe.io.atomic import write_json
from visprobe.pipelines.compare import compare
from visprobe.pipelines.measurement import Measurement, Options
from visprobe.report.document import SCHEMA
from visprobe.results.result import Result
from visprobe.training.recipe import Recipe
from visprobe.training.run import RunOptions, run
from visprobe.training.run_folder.folder import inputs_of, refuse_folder, start_of, visible_names
from visprobe.training.run_folder.manifest import weights_hash


@dataclass(frozen=True)
class Study:
    """Settings of a study.

    Attributes:
        base: Checkpoint that every arm starts from.
        arms: Recipe by name of the arm; its seed is replaced by each of `seeds`.
        seeds: One run per arm and seed. Runs of the same seed see the same rows, SFT and DPO in the same order.
        rows: Makes the training rows for a seed.
        images: Image set of the comparison, as for `--data`.
        limit: Largest number of images of each split.
        scenes: Number of unseen built-in scenes whose questions all checkpoints answer; 0 for no answers.
        question_seed: Seed of these scenes, and of the images of the comparison.
    """

    base: Path
    arms: Mapping[str, Recipe]
    seeds: tuple[int, ...]
    rows: Callable[[int], Rows]
    images: str = "digits"
    limit: int | None = None
    scenes: int = 0
    question_seed: int = 0
    options: Options = field(default_factory=Options)


def run_study(study: Study, output_dir: Path, **options: Unpack[RunOptions]) -> Measurement:
    """Train every arm with every seed and compare all of them with the base.

    Finished runs are not repeated, stopped ones go on.

    Args:
        study: Settings.
        output_dir: Folder that gets one folder per run: "sft" for a single seed, "sft-seed1" for several.
        options: Options of `visprobe.training.run.run`; its `progress` is called while measuring as well.

    Returns:
        Comparison of all runs; with several seeds also differences between arms over runs, and a verdict on arms
        instead of single runs.

    Raises:
        UsageError: If the folder of a run holds anything else; then nothing is trained.
    """
    arms = train_arms(study, output_dir, **options)
    folders = {study.base.name: study.base} | {n: output_dir / n for names in arms.values() for n in names}
    also = [_answers(folders, study, output_dir / "answers.json")] if study.scenes else []
    progress = options.get("progress")
    measuring = replace(study.options, limit=study.limit, seed=study.question_seed, progress=progress)
    measured = compare(list(folders.values()), study.images, measuring, also=also)
    return measured if len(study.seeds) == 1 else over_runs(measured, arms, study.base.name)


def train_arms(study: Study, output_dir: Path, **options: Unpack[RunOptions]) -> dict[str, list[str]]:
    """Train every arm with every seed; see `run_study`.

    Returns:
        Names of the runs of each arm.
    """
    rows = {seed: study.rows(seed) for seed in study.seeds}
    recipes = [
        (run_name(arm, seed, study.seeds), recipe.model_copy(update={"seed": seed}))
        for seed in study.seeds
        for arm, recipe in study.arms.items()
    ]
    overwrite = options.get("overwrite", False)
    for name, recipe in recipes:  # a folder in the way of the last run must fail before anything is trained
        refuse_folder(study.base, output_dir / name)
        if visible_names(output_dir / name):  # only then hash the base, which may be large
            start_of(output_dir / name, inputs_of(study.base, recipe, rows[recipe.seed]), overwrite=overwrite)
    for name, recipe in recipes:
        run(study.base, recipe, rows[recipe.seed], output_dir / name, **options)
    return {arm: [run_name(arm, seed, study.seeds) for seed in study.seeds] for arm in study.arms}


def run_name(arm: str, seed: int, seeds: Sequence[int]) -> str:
    """Return the name of a run and its folder: "sft" if there is one seed, else "sft-seed1"."""
    return arm if len(seeds) == 1 else f"{arm}-seed{seed}"


def over_runs(measured: Measurement, arms: Mapping[str, list[str]], base: str) -> Measurement:
    """Return the measurement with arms compared over their runs, and a verdict on arms."""
    runs = across_runs(measured.results, arms, base)
    equal = ("not trained or not saved", "rounded to")
    untouched = [s for s in measured.verdict if any(words in s.text for words in equal)]
    return replace(measured, results=(runs, *measured.results), verdict=(*runs_verdict(runs, base), *untouched))


def _answers(folders: Mapping[str, Path], study: Study, path: Path) -> Result:
    """Measure how many questions each checkpoint answers right, with `path` as cache."""
    inputs: dict[str, Any] = {
        "weights": {name: weights_hash(folder) for name, folder in folders.items()},
        "scenes": study.scenes,
        "seed": study.question_seed,
        "schema": SCHEMA,  # of the result that is kept
    }
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("inputs") == inputs:
        return Result.from_json(kept["result"])
    asked = named_data("digits")
    assert asked is not None
    result: Result = asked.answers(folders, study.scenes, study.question_seed)
    write_json(path, {"inputs": inputs, "result": result.to_json()})
    return result
