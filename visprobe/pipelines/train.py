"""Training of one stage as a function (`visprobe train`)."""

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
    """Train one stage from a checkpoint, as `visprobe train STAGE` does.

    Args:
        stage: "projector", "full", "sft", "dpo", "grpo", or a stage of an installed package.
        output_dir: Folder of the new checkpoint. A finished run of the same settings there is not repeated, a stopped
            one goes on, and so does one that is given more steps.
        config: Recipe file (YAML); settings win over it.
        progress: Called with (stage, done, total).
        max_bad: Largest number or share of unusable rows; with more, nothing is trained.
        vision_learning_rate: Learning rate of the vision tower alone.
        overwrite: Remove another run or model in the folder when training begins.
        settings: Options of the command by their names with underscores (base, data, rows, steps, batch_size,
            learning_rate, train, seed, ...) and any other setting of a recipe (beta=0.3). Rows are the built-in scenes
            of digits unless `data` names others.

    Returns:
        Manifest of the run, also written to the folder: "losses" by step, "seen" (steps and rows), the settings with
        their origins, and hashes of the base and the rows.

    Raises:
        PrerequisiteError: If the training extra is not installed.
        UsageError: If anything in the settings is wrong, all faults named at once; if the folder holds anything else.
        CheckpointError, DataError: If the base or the rows cannot be used.
        TrainingError: If training cannot go on.

    Example:
        `visprobe.train("dpo", "checkpoints/dpo", base="checkpoints/base", steps=50, beta=0.3)`
    """
    require_training()
    from visprobe.pipelines.attribution.during_training import attribution_callback  # imports trl, an optional extra

    asked = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    job = make_job(stage, Path(config) if config else None, asked, vision_learning_rate=vision_learning_rate)
    return run_job(
        job, Path(output_dir), progress=progress, note=print, callbacks=[attribution_callback(print)], max_bad=max_bad,
        overwrite=overwrite,
    )  # fmt: skip
