"""Construction and settings shared by the trainers of all stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset

from visprobe.encoders.families import MODEL_OF
from visprobe.errors import UsageError
from visprobe.training.recipe import Recipe
from visprobe.training.stages import TrainerInputs


def images_are_encoded_once(model: Any) -> bool:
    """Return whether copies of an image in a batch can share one encoding, a property of the model's family."""
    family = MODEL_OF.get(getattr(model.config, "model_type", ""))
    return family is not None and family.encoded_once


def make_trainer(
    kind: type[Any],
    config: Any,
    inputs: TrainerInputs,
    collator: Any,
    columns: Mapping[str, Any] | None = None,
    **more: Any,
) -> Any:
    """Make a trainer on written answers.

    Args:
        kind: Trainer class with the mixins `OrderBySeed`, `PartLearningRates` and `ResumeByName`.
        config: Training arguments, made from `trainer_settings`.
        inputs: Model, rows, recipe and callbacks.
        collator: Makes a batch of examples, each with its "row" number.
        columns: Further dataset columns, each with one value for all rows.
        more: Further arguments of the class.

    Raises:
        UsageError: If drop_last is set and the rows do not fill one step.
    """
    recipe, numbers = inputs.recipe, range(len(inputs.rows))
    dataset = {"row": list(numbers)} | {name: [value] * len(numbers) for name, value in (columns or {}).items()}
    if recipe.group_by_length:
        dataset["length"] = [inputs.rows.length(number) for number in numbers]
    trainer = kind(
        inputs.model,
        args=config,
        data_collator=collator,
        train_dataset=Dataset.from_dict(dataset),
        processing_class=inputs.processor,
        callbacks=list(inputs.callbacks),
        **more,
    )
    trainer.part_learning_rates, trainer.drop_last = recipe.part_learning_rates, recipe.drop_last
    per_step = recipe.batch_size * recipe.gradient_accumulation * trainer.args.world_size
    if recipe.drop_last and len(numbers) < per_step:
        raise UsageError(
            f"{len(numbers)} rows fill no step of {per_step}, and drop_last leaves out what fills none",
            hint="Lower batch_size or gradient_accumulation, or leave drop_last out.",
        )
    return trainer


def trainer_settings(recipe: Recipe, folder: str) -> dict[str, Any]:
    """Return training arguments shared by all stages."""
    precision = resolved_precision(recipe.precision)
    return {
        "output_dir": folder,
        "max_steps": recipe.steps or -1,
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": warmup_steps(recipe, recipe.steps) if recipe.steps else recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_gradient_norm,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "train_sampling_strategy": "group_by_length" if recipe.group_by_length else "random",
        "remove_unused_columns": False,
        "seed": recipe.seed,
        "logging_steps": recipe.log_every,
        "logging_nan_inf_filter": False,  # the default logs a NaN as the last finite loss, and Watch would miss it
        "save_strategy": "steps" if recipe.save_every else "no",
        "save_steps": recipe.save_every or 500,
        "save_total_limit": 2,
        "report_to": list(recipe.report_to) or "none",
        "disable_tqdm": True,
    }


def warmup_steps(recipe: Recipe, steps: int) -> int:
    """Return warmup steps of a run of `steps`; fewer than all, since the rate starts at 0."""
    return min(math.ceil(recipe.warmup * steps), steps - 1)


def resolved_precision(wanted: str) -> str:
    """Resolve "auto": bfloat16 if the CUDA device supports it, else float32.

    Raises:
        UsageError: If float16 is wanted without a CUDA device.
    """
    if wanted == "float16" and not torch.cuda.is_available():
        raise UsageError(
            "precision float16 needs a CUDA device; on others it is left out without a word",
            hint="Give --precision auto, float32 or bfloat16.",
        )
    if wanted != "auto":
        return wanted
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
