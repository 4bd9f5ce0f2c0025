"""The demo: base, SFT and DPO branches of a small multimodal LLM, and what became of their encoders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visprobe.analyses.result import Result
from visprobe.io.atomic import replacing, write_json
from visprobe.report.compare import compare
from visprobe.report.measurement import Measurement, Options
from visprobe.training.digits import DigitRows
from visprobe.training.recipe import Recipe, Stage
from visprobe.training.run import run

Progress = Callable[[str, int, int], None]
ARMS: tuple[Stage, ...] = ("sft", "dpo")
LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Size:
    """How much the demo does."""

    steps: int
    batch_size: int
    images: int
    scenes: int


FULL = Size(steps=100, batch_size=16, images=1000, scenes=400)
FAST = Size(steps=4, batch_size=8, images=100, scenes=30)


def demo(
    output_dir: Path,
    *,
    fast: bool = False,
    from_scratch: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measurement:
    """Branch the base by SFT and by DPO on the same rows, and compare the three encoders.

    What was finished in an earlier run with the same settings is not done again.

    Args:
        output_dir: Gets a checkpoint folder each for base, sft and dpo.
        fast: A smoke run of under a minute.
        from_scratch: Train the base too, instead of copying the one that ships.
        seed: Seed of scenes, rows and training.
        progress: Called with (stage, done, total).

    Returns:
        The comparison on unseen scenes, answer accuracy included.
    """
    size = FAST if fast else FULL
    base = _base(output_dir / "base", from_scratch, seed, progress)
    rows = DigitRows(size.steps * size.batch_size, seed)
    checkpoints = {"base": base}
    for stage in ARMS:
        recipe = Recipe(
            stage=stage, steps=size.steps, batch_size=size.batch_size, learning_rate=LEARNING_RATE, seed=seed
        )
        run(base, recipe, rows, output_dir / stage, progress=progress)
        checkpoints[stage] = output_dir / stage
    answers = _answers(checkpoints, size, seed, output_dir / "answers.json")
    options = Options(limit=size.images, seed=seed, progress=progress)
    return compare(list(checkpoints.values()), "digits", options, also=[answers])


def _base(folder: Path, from_scratch: bool, seed: int, progress: Progress | None) -> Path:
    """The base checkpoint in `folder`: trained, or copied from the package."""
    from visprobe.training.base import shipped_base, train_base

    if not (folder / "manifest.json").is_file():
        if from_scratch:
            train_base(folder, seed=seed, progress=progress or (lambda stage, done, total: None))
        else:
            with replacing(folder) as temporary:
                shutil.copytree(shipped_base(), temporary)
    return folder


def _answers(checkpoints: dict[str, Path], size: Size, seed: int, path: Path) -> Result:
    """How many questions each checkpoint answers right; kept in `path` for the next time."""
    from visprobe.data.digits import DigitScenes
    from visprobe.training.answers import evaluate_answers
    from visprobe.training.manifest import weights_hash

    inputs = {
        "weights": {name: weights_hash(f) for name, f in checkpoints.items()},
        "scenes": size.scenes,
        "seed": seed,
    }
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("inputs") == inputs:
        return Result.from_json(kept["result"])
    unseen = DigitScenes("val", size.scenes, seed)
    result = evaluate_answers(checkpoints, unseen, DigitScenes("train", 4 * size.scenes, seed))
    write_json(path, {"inputs": inputs, "result": result.to_json()})
    return result
