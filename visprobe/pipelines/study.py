"""A matched study: one base, the same rows, several arms, several seeds, one comparison over all of them."""

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
from visprobe.results.result import Result
from visprobe.training.recipe import Recipe
from visprobe.training.run import RunOptions, run
from visprobe.training.run_folder.folder import inputs_of, refuse_folder, start_of, visible
from visprobe.training.run_folder.manifest import weights_hash


@dataclass(frozen=True)
class Study:
    """What is trained and how it is compared.

    Attributes:
        base: Checkpoint that every arm starts from.
        arms: Arm name to its recipe; the seed in it is replaced by each of `seeds`.
        seeds: One run per arm and seed. Runs of the same seed see the same rows, SFT and DPO in the same order.
        rows: From a seed to the training rows.
        images: What the encoders are compared on, as `--data` takes it.
        limit: At most so many images of each split.
        questions: Data with a name (`visprobe.data.named`) whose questions all checkpoints answer; None for no answers.
        scenes: So many unseen images of it.
        question_seed: Seed of those images, and of the images that encoders are compared on.
    """

    base: Path
    arms: Mapping[str, Recipe]
    seeds: tuple[int, ...]
    rows: Callable[[int], Rows]
    images: str = "digits"
    limit: int | None = None
    questions: str | None = None
    scenes: int = 0
    question_seed: int = 0
    options: Options = field(default_factory=Options)


def run_study(study: Study, output_dir: Path, **options: Unpack[RunOptions]) -> Measurement:
    """Train every arm with every seed and compare all of them with the base.

    Finished runs are not repeated, stopped ones go on.

    Args:
        study: What to do.
        output_dir: Gets one folder per run: "sft" for a single seed, "sft-seed1" for several.
        options: As in `visprobe.training.run.run`; measuring has the progress of it.

    Returns:
        The comparison; with several seeds also the differences between arms over runs, and a verdict about
        arms instead of single runs.

    Raises:
        UsageError: If the folder of a run holds anything else; then nothing has been trained.
    """
    arms = train_arms(study, output_dir, **options)
    folders = {study.base.name: study.base} | {n: output_dir / n for names in arms.values() for n in names}
    also = [_answers(folders, study, output_dir / "answers.json")] if study.questions else []
    progress = options.get("progress")
    measuring = replace(study.options, limit=study.limit, seed=study.question_seed, progress=progress)
    measured = compare(list(folders.values()), study.images, measuring, also=also)
    return measured if len(study.seeds) == 1 else over_runs(measured, arms, study.base.name)


def train_arms(study: Study, output_dir: Path, **options: Unpack[RunOptions]) -> dict[str, list[str]]:
    """Train every arm with every seed; see `run_study`.

    Returns:
        The names of each arm's runs.
    """
    rows = {seed: study.rows(seed) for seed in study.seeds}
    recipes = [
        (run_name(arm, seed, study.seeds), recipe.model_copy(update={"seed": seed}))
        for seed in study.seeds
        for arm, recipe in study.arms.items()
    ]
    overwrite = options.get("overwrite", False)
    for name, recipe in recipes:  # a folder in the way of the last run is no news for after the others
        refuse_folder(study.base, output_dir / name)
        if visible(output_dir / name):  # otherwise the base, which may be large, need not be hashed for it
            start_of(output_dir / name, inputs_of(study.base, recipe, rows[recipe.seed]), overwrite=overwrite)
    for name, recipe in recipes:
        run(study.base, recipe, rows[recipe.seed], output_dir / name, **options)
    return {arm: [run_name(arm, seed, study.seeds) for seed in study.seeds] for arm in study.arms}


def run_name(arm: str, seed: int, seeds: Sequence[int]) -> str:
    """Name and folder of a run: "sft" where there is one seed, else "sft-seed1"."""
    return arm if len(seeds) == 1 else f"{arm}-seed{seed}"


def over_runs(measured: Measurement, arms: Mapping[str, list[str]], base: str) -> Measurement:
    """The measurement with arms compared over their runs, and a verdict about arms."""
    runs = across_runs(measured.results, arms, base)
    equal = ("not trained or not saved", "rounded to")
    untouched = [s for s in measured.verdict if any(words in s.text for words in equal)]
    return replace(measured, results=(runs, *measured.results), verdict=(*runs_verdict(runs, base), *untouched))


def _answers(folders: Mapping[str, Path], study: Study, path: Path) -> Result:
    """How many questions each checkpoint answers right; kept in `path` for the next time."""
    inputs: dict[str, Any] = {
        "weights": {name: weights_hash(folder) for name, folder in folders.items()},
        "scenes": study.scenes,
        "seed": study.question_seed,
    }
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("inputs") == inputs:
        return Result.from_json(kept["result"])
    asked = named_data(study.questions or "")
    assert asked is not None
    result: Result = asked.answers(folders, study.scenes, study.question_seed)
    write_json(path, {"inputs": inputs, "result": result.to_json()})
    return result
