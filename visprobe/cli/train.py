"""`visprobe train`: post-train branches of one base on the same rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.output import Bars
from visprobe.errors import PrerequisiteError, UsageError

if TYPE_CHECKING:
    from visprobe.training.post import Recipe

app = typer.Typer(help="Post-train a multimodal LLM: checkpoints to compare.", no_args_is_help=True)

Base = Annotated[Path, typer.Option("--base", help="Folder of the multimodal model to start from.")]
Output = Annotated[Path, typer.Option("--output-dir", "-o", help="Folder of the new checkpoint.")]
Data = Annotated[str, typer.Option("--data", "-d", help="Training rows: 'digits', the built-in scenes.")]
Rows = Annotated[int, typer.Option(min=1, help="How many training rows.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Rows per step.")]
LearningRate = Annotated[float, typer.Option(min=0, help="Peak learning rate.")]
VisionLearningRate = Annotated[float | None, typer.Option(min=0, help="Learning rate of the vision tower alone.")]
Train = Annotated[str, typer.Option(help="Parts that train: vision_tower, projector, language_model, with commas.")]
ALL = "vision_tower,projector,language_model"


@app.command("sft")
def sft(
    base: Base,
    output_dir: Output,
    data: Data = "digits",
    rows: Rows = 1600,
    steps: Steps = 100,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 3e-4,
    vision_learning_rate: VisionLearningRate = None,
    train: Train = ALL,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
) -> None:
    """Supervised fine-tuning: cross-entropy on the chosen answers.

    Example: visprobe train sft --base checkpoints/base --output-dir checkpoints/sft

    Example: visprobe train sft --base checkpoints/base --output-dir checkpoints/llm-only --train language_model
    """
    require_training()
    from visprobe.training.post import Recipe

    part = {} if vision_learning_rate is None else {"vision_tower": vision_learning_rate}
    _run(
        base,
        Recipe("sft", steps, batch_size, learning_rate, part, _parts(train), seed=seed),
        data,
        rows,
        output_dir,
        quiet,
    )


@app.command("dpo")
def dpo(
    base: Base,
    output_dir: Output,
    data: Data = "digits",
    rows: Rows = 1600,
    steps: Steps = 100,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 3e-4,
    vision_learning_rate: VisionLearningRate = None,
    train: Train = ALL,
    beta: Annotated[float, typer.Option(min=0, help="Temperature of the preference loss.")] = 0.1,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
) -> None:
    """Direct preference optimization: chosen against rejected answers, on the rows that sft takes.

    Example: visprobe train dpo --base checkpoints/base --output-dir checkpoints/dpo

    Example: visprobe train dpo --base checkpoints/base --output-dir checkpoints/dpo-1 --beta 1
    """
    require_training()
    from visprobe.training.post import Recipe

    part = {} if vision_learning_rate is None else {"vision_tower": vision_learning_rate}
    recipe = Recipe("dpo", steps, batch_size, learning_rate, part, _parts(train), beta, seed)
    _run(base, recipe, data, rows, output_dir, quiet)


def require_training() -> None:
    """Refuse at once, with advice, where the training extra is not installed."""
    missing = [name for name in ("trl", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise PrerequisiteError(
            f"training needs {' and '.join(missing)}", hint="Install the extra: pip install -e '.[train]' in the clone."
        )


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _run(base: Path, recipe: Recipe, data: str, rows: int, output_dir: Path, quiet: bool) -> None:
    from visprobe.training.digits import DigitRows
    from visprobe.training.post import post_train

    if data != "digits":
        raise UsageError(f"--data {data}: only the built-in 'digits' can be trained on", hint="Write --data digits.")
    with Bars(quiet) as bars:
        manifest = post_train(base, recipe, DigitRows(rows, recipe.seed), output_dir, progress=bars)
    done = "already there" if manifest.get("reused") else f"final loss {manifest['losses'][-1]:.3f}"
    print(f"{output_dir}: {recipe.stage}, {recipe.steps} steps, {done}")
