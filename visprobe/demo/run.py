"""Demo: post-train branches of a small multimodal LLM, and compare their encoders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visprobe.data.progress import Progress
from visprobe.demo.rows import DigitRows
from visprobe.errors import UsageError
from visprobe.io.atomic import replacing, write_json
from visprobe.pipelines.attribution.run import gradcam
from visprobe.pipelines.measurement import Measurement, Options
from visprobe.pipelines.study import Study, run_study
from visprobe.training.recipe import Recipe
from visprobe.training.run_folder.folder import listed, visible_names
from visprobe.training.stages import stages

MADE_OF = "base-made-of.json"  # marks a folder as a demo's


@dataclass(frozen=True)
class Size:
    """Size of a demo: training steps, rows per step, and images and scenes to measure."""

    steps: int
    batch_size: int
    images: int
    scenes: int
    looked_into: int


FULL = Size(steps=100, batch_size=16, images=1000, scenes=400, looked_into=48)
FAST = Size(steps=4, batch_size=8, images=100, scenes=30, looked_into=6)


def demo(
    output_dir: Path,
    *,
    arms: Sequence[str] = ("sft", "dpo"),
    seeds: int = 1,
    fast: bool = False,
    from_scratch: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measurement:
    """Branch the base by each arm on the same rows, and compare the encoders.

    Runs finished earlier with the same settings are reused; those with other settings are replaced.

    Args:
        output_dir: Receives a checkpoint folder for the base and for each run.
        arms: Names of stages that have settings for the demo.
        seeds: Number of runs per arm.
        fast: Whether to do a smoke run of under a minute.
        from_scratch: Whether to train the base too, instead of copying the packaged one.
        seed: Seed of scenes, rows and training; further runs take the following seeds.
        progress: Called with (stage, done, total).

    Returns:
        Comparison on unseen scenes with answer accuracy; with one run per arm also maps of where each looks.

    Raises:
        UsageError: If an arm is unknown, or the folder holds files that no demo has written.
    """
    size = FAST if fast else FULL
    recipes = arm_recipes(size)
    if unknown := [arm for arm in arms if arm not in recipes]:
        raise UsageError(f"--arms {','.join(unknown)}: no such arm", hint=f"Choose among {', '.join(recipes)}.")
    if (names := visible_names(output_dir)) and not (output_dir / MADE_OF).is_file():
        raise UsageError(f"{output_dir} holds {listed(names)}, which are no demo's", hint="Give another output folder.")
    study = Study(
        base=_base(output_dir / "base", from_scratch, seed, progress),
        arms={arm: recipes[arm] for arm in arms},
        seeds=tuple(range(seed, seed + seeds)),
        rows=lambda run_seed: DigitRows(size.steps * size.batch_size, run_seed),
        limit=size.images,
        scenes=size.scenes,
        question_seed=seed,
    )
    measured = run_study(study, output_dir, progress=progress, overwrite=True)
    if seeds > 1:
        return measured
    folders = [study.base, *(output_dir / arm for arm in arms)]
    how = Options(limit=size.looked_into, batch_size=8, seed=seed, progress=progress)
    looked = gradcam(folders, [study.images], options=how, kept=output_dir / "maps").measured
    return replace(
        measured,
        results=(*measured.results, *looked.results),
        verdict=(*measured.verdict, *looked.verdict),
        data=(*measured.data, *looked.data),
        warnings=(*measured.warnings, *looked.warnings),
    )


def arm_recipes(size: Size) -> dict[str, Recipe]:
    """Return the recipes of the arms: the same rows, steps and learning rate, and each stage's own settings."""
    common: dict[str, Any] = {"steps": size.steps, "batch_size": size.batch_size, "learning_rate": 5e-5}
    demos = {name: stage.demo for name, stage in stages().items() if stage.demo is not None}
    return {name: Recipe(stage=name, **common, **own) for name, own in demos.items()}


def _base(folder: Path, from_scratch: bool, seed: int, progress: Progress | None) -> Path:
    """Return the base checkpoint in `folder`, trained or copied first unless it is there with the same settings."""
    from visprobe.demo.base import BASE, train_base

    note = folder.parent / MADE_OF
    made_of = {"from_scratch": from_scratch, "seed": seed if from_scratch else None}
    if not (folder / "manifest.json").is_file() or not note.is_file() or json.loads(note.read_text()) != made_of:
        write_json(note, {})  # so a kill from here on leaves a demo's folder whose base is made again
        if from_scratch:
            train_base(folder, seed=seed, progress=progress or (lambda stage, done, total: None))
        else:
            with replacing(folder) as temporary:
                shutil.copytree(BASE, temporary)
        write_json(note, made_of)
    return folder
