"""What the trainers of all stages share: their settings, the order of rows, and the rows as a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from visprobe.encoders.families import MODEL_OF
from visprobe.errors import UsageError
from visprobe.training.recipe import Recipe
from visprobe.training.stages import TrainerInputs


class LengthGrouped(LengthGroupedSampler):  # type: ignore[misc]
    """Batches of rows of like length, in an order that seed and epoch alone decide.

    The Trainer's own draws from the global random numbers, so that a resumed run would see other batches.

    Args:
        like: What the Trainer has made.
        seed_now: Gives the seed of the pass over the rows that begins.
    """

    def __init__(self, like: LengthGroupedSampler, seed_now: Callable[[], int]) -> None:
        super().__init__(like.batch_size, lengths=like.lengths)
        self._seed_now = seed_now

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed_now())
        yield from super().__iter__()


class WholeSteps(Sampler[int]):
    """A sampler without the rows at the end of a pass that fill no optimizer step.

    Args:
        sampler: Gives the rows of a pass in order.
        per_step: Rows of an optimizer step, of all processes.
    """

    def __init__(self, sampler: Sampler[int], per_step: int) -> None:
        self._sampler, self._per_step = sampler, per_step

    def __len__(self) -> int:
        rows = len(self._sampler)  # type: ignore[arg-type]
        return rows - rows % self._per_step

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self._sampler), len(self))


class OrderBySeed:
    """Mixin for a transformers Trainer: batches of rows of like length come in the order of `LengthGrouped`.

    With `drop_last` a pass over the rows is whole optimizer steps; transformers itself drops what fills no batch.
    """

    drop_last = False

    def _get_train_sampler(self: Any, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        if isinstance(sampler, LengthGroupedSampler):
            # Not by `set_epoch`: accelerate does not pass it on where several processes go on within an epoch.
            sampler = LengthGrouped(sampler, lambda: self.args.seed + int(self.state.epoch or 0))
        if not self.drop_last:
            return sampler
        args = self.args
        return WholeSteps(sampler, args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def images_are_encoded_once(model: Any) -> bool:
    """Whether copies of an image in a batch can share one encoding of this model, as its family says."""
    family = MODEL_OF.get(getattr(model.config, "model_type", ""))
    return family is not None and family.encoded_once


def make_trainer(kind: type[Any], config: Any, inputs: TrainerInputs, collator: Any, **more: Any) -> Any:
    """A trainer of written answers.

    Args:
        kind: Its class, with the mixins `OrderBySeed`, `PartLearningRates` and `ResumeByName`.
        config: Its arguments, made of `trainer_settings`.
        inputs: What it is made of.
        collator: Makes a batch of examples, each with the number of its "row".
        more: Further arguments of the class; "columns": further columns of the data set, a value that every row has.

    Raises:
        UsageError: If the rows fill no step and the recipe drops what fills none.
    """
    recipe, numbers = inputs.recipe, range(len(inputs.rows))
    columns = {name: [value] * len(numbers) for name, value in more.pop("columns", {}).items()}
    if recipe.group_by_length:
        columns["length"] = [inputs.rows.length(number) for number in numbers]
    trainer = kind(
        inputs.model,
        args=config,
        data_collator=collator,
        train_dataset=Dataset.from_dict({"row": list(numbers), **columns}),
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
    """Training arguments that every stage shares."""
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
        "logging_nan_inf_filter": False,  # by default a NaN is logged as the last finite loss
        "save_strategy": "steps" if recipe.save_every else "no",
        "save_steps": recipe.save_every or 500,
        "save_total_limit": 2,
        "report_to": list(recipe.report_to) or "none",
        "disable_tqdm": True,
    }


def warmup_steps(recipe: Recipe, steps: int) -> int:
    """Steps of warmup in a run of `steps`: it begins at a rate of 0, with which a single step would learn nothing."""
    return min(math.ceil(recipe.warmup * steps), steps - 1)


def resolved_precision(wanted: str) -> str:
    """What "auto" means here: bfloat16 where the CUDA device computes in it, else float32.

    Raises:
        UsageError: If float16 is wanted where it cannot be had.
    """
    if wanted == "float16" and not torch.cuda.is_available():
        raise UsageError(
            "precision float16 needs a CUDA device; on others it is left out without a word",
            hint="Give --precision auto, float32 or bfloat16.",
        )
    if wanted != "auto":
        return wanted
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
