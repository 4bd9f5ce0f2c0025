"""Post-training: SFT and DPO branches of one base, on the same rows, by trl's trainers."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trl reports each trainer's start unless told not to

import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoProcessor, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from visprobe.errors import CheckpointError, TrainingError
from visprobe.io.atomic import replacing, write_json
from visprobe.training.collate import PreferenceCollator, RowEncoder, SupervisedCollator
from visprobe.training.manifest import NAME, Clock, environment, finished, weights_hash
from visprobe.training.parts import PARTS, PartLearningRates, check_gradients, train_only
from visprobe.training.rows import Rows

Stage = Literal["sft", "dpo"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Recipe:
    """Settings of one post-training run; two arms of a study differ in `stage` and nothing else.

    Attributes:
        stage: "sft" (cross-entropy on the chosen answer) or "dpo" (chosen against rejected).
        steps: Optimizer steps.
        batch_size: Rows per step.
        learning_rate: Peak learning rate of AdamW; cosine decay after 3 % of warm-up.
        part_learning_rates: Learning rates of single parts, by part name.
        train: Parts that are trained.
        beta: DPO's temperature.
        seed: Seed of the row order.
    """

    stage: Stage
    steps: int = 100
    batch_size: int = 16
    learning_rate: float = 3e-4
    part_learning_rates: Mapping[str, float] = field(default_factory=dict)
    train: tuple[str, ...] = PARTS
    beta: float = 0.1
    seed: int = 0


def post_train(
    base: Path,
    recipe: Recipe,
    rows: Rows,
    output_dir: Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a branch of `base` and save it as a folder that transformers loads.

    A finished run of the same base, rows and recipe is not repeated.

    Returns:
        The manifest, also written to `output_dir/manifest.json`.

    Raises:
        CheckpointError: If `base` cannot be loaded.
        TrainingError: If the loss is not finite, or a part that should train gets no gradient.
    """
    inputs = {"base": weights_hash(base), "rows": rows.content_hash(), "recipe": _plain(asdict(recipe))}
    if finished(output_dir, inputs):
        return {"inputs": inputs, "reused": True}
    clock = Clock()
    with _quiet():
        model, processor = _load(base)
        train_only(model, recipe.train)
        watch = _Watch(recipe, progress)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = _trainer(model, processor, recipe, rows, scratch, watch)
            trainer.train()
        manifest = {
            "inputs": inputs,
            "base": str(base),
            "rows": {"name": rows.name, "count": len(rows)},
            "seen": _seen(recipe),
            "without_gradient": watch.without_gradient,
            "losses": watch.losses,
            "environment": environment(),
            **clock.read(),
        }
        with replacing(output_dir) as folder:
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            write_json(folder / NAME, manifest)
    return manifest


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}


def _load(base: Path) -> tuple[Any, Any]:
    try:
        model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
        return model, AutoProcessor.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot load {base} for training: {str(error).splitlines()[0][:300]}",
            hint="The base must be a folder with a multimodal model and its processor, as save_pretrained writes it.",
        ) from error


def _trainer(
    model: Any,
    processor: Any,
    recipe: Recipe,
    rows: Rows,
    scratch: str,
    watch: _Watch,
) -> Any:
    encoder = RowEncoder(processor, rows)
    # The empty "images" column tells trl that this is vision data; the collator brings the pixels.
    dataset = Dataset.from_dict({"row": list(range(len(rows))), "images": [[]] * len(rows), "prompt": [""] * len(rows)})
    common = {"train_dataset": dataset, "processing_class": processor, "callbacks": [watch]}
    settings = _settings(recipe, scratch)
    trainer: Any
    if recipe.stage == "sft":
        trainer = _SFT(model, SFTConfig(**settings), data_collator=SupervisedCollator(encoder), **common)
    else:
        # Without a reference model trl reloads one by the name in the config, which may be another model by now.
        reference = copy.deepcopy(model).requires_grad_(False).eval()
        arguments = DPOConfig(beta=recipe.beta, **settings)
        trainer = _DPO(model, reference, arguments, data_collator=PreferenceCollator(encoder), **common)
    trainer.remove_callback(PrinterCallback)  # it prints every log to stdout, which is for results
    trainer.part_learning_rates = recipe.part_learning_rates
    return trainer


class _SFT(PartLearningRates, SFTTrainer):  # type: ignore[misc]
    pass


class _DPO(PartLearningRates, DPOTrainer):  # type: ignore[misc]
    pass


def _settings(recipe: Recipe, scratch: str) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    return {
        "output_dir": scratch,
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(0.03 * recipe.steps),
        "weight_decay": 0.0,
        "max_length": None,  # a cut sequence loses image tokens
        "bf16": gpu,
        "use_cpu": not gpu,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "seed": recipe.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # by default a NaN is logged as the last finite loss
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _seen(recipe: Recipe) -> dict[str, int]:
    rows = recipe.steps * recipe.batch_size
    return {"steps": recipe.steps, "rows": rows, "responses": rows * (2 if recipe.stage == "dpo" else 1)}


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Progress, losses, and the two reasons to stop: a part without gradient, a loss that is not a number."""

    def __init__(self, recipe: Recipe, progress: Progress | None) -> None:
        self._recipe = recipe
        self._progress = progress
        self.losses: list[float] = []
        self.without_gradient: list[str] | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self.without_gradient is None:
            self.without_gradient = check_gradients(model)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"the loss is {logs['loss']} at step {state.global_step}",
                hint=f"Lower --learning-rate (now {self._recipe.learning_rate:g}).",
            )
        self.losses.append(round(float(logs["loss"]), 6))
        if self._progress:
            self._progress(f"train {self._recipe.stage}", state.global_step, self._recipe.steps)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' bars, notes and step logs off stderr; errors still come through."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
