"""`visprobe train` as a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visprobe.data.progress import Progress
from visprobe.io.disk import plain_errors
from visprobe.training.job import make_job, run_job
from visprobe.training.launch import require_training


@plain_errors
def train(
    stage: str,
    output_dir: str | Path,
    *,
    config: str | Path | None = None,
    progress: Progress | None = None,
    max_bad: str = "1%",
    vision_learning_rate: float | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train one stage from a checkpoint, as `visprobe train STAGE` does: a checkpoint to compare.

    Args:
        stage: "projector", "full", "sft", "dpo", "grpo", or one of an installed package.
        output_dir: Folder of the new checkpoint. A finished run of the same settings there is not repeated, a stopped
            one goes on, and so does one that is given more steps.
        config: Recipe file (YAML); settings win over it.
        progress: Called with (stage, done, total).
        max_bad: How many rows may be unusable, a number or a share, before nothing is trained.
        vision_learning_rate: Learning rate of the vision tower alone.
        overwrite: Whether another run or model in the folder is removed when this one begins to train.
        settings: Options of the command by their names with underscores (base, data, rows, steps, batch_size,
            learning_rate, train, seed, ...) and any other setting of a recipe (beta=0.3). Rows are the built-in scenes
            of digits unless `data` names others.

    Returns:
        The manifest of the run, which also lies in the folder: "losses" by step, "seen" (steps and rows), the settings
        with their origins, and hashes of what it started from.

    Raises:
        PrerequisiteError: If the training extra is not installed.
        UsageError: If anything in the settings is wrong, all faults named at once; if the folder holds anything else.
        CheckpointError, DataError: If the base or the rows cannot be used.
        TrainingError: If the run must not go on.

    Example:
        `visprobe.train("dpo", "checkpoints/dpo", base="checkpoints/base", steps=50, beta=0.3)`
    """
    require_training()
    from visprobe.pipelines.attribution.during_training import attribution_callback  # it imports trl

    asked = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    job = make_job(stage, Path(config) if config else None, asked, vision_learning_rate=vision_learning_rate)
    return run_job(
        job, Path(output_dir), progress=progress, note=print, callbacks=[attribution_callback(print)], max_bad=max_bad,
        overwrite=overwrite,
    )  # fmt: skip
