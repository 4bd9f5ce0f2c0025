"""trl's SFT and DPO trainers with what they lack for vision encoders.

Each part has its own learning rate; batches come prepared; DPO encodes each image once and reads reference
log-probabilities that were computed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from visprobe.encoders.families import MODEL_OF
from visprobe.errors import UsageError
from visprobe.mllm.batches import PreferenceCollator, RowEncoder, SupervisedCollator
from visprobe.mllm.parts import PartLearningRates
from visprobe.training.recipe import Recipe
from visprobe.training.run_folder.resume import ResumeByName


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


class SupervisedTrainer(OrderBySeed, PartLearningRates, ResumeByName, SFTTrainer):  # type: ignore[misc]
    """trl's SFTTrainer with a learning rate per part."""


class PreferenceTrainer(OrderBySeed, PartLearningRates, ResumeByName, DPOTrainer):  # type: ignore[misc]
    """trl's DPOTrainer with a learning rate per part, on prepared batches."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # rows are tokenized by the collator

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # the collator brings them

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["row"]


class WithReference:
    """A `PreferenceCollator` whose batches carry the reference's log-probabilities."""

    def __init__(self, collate: PreferenceCollator, reference: Mapping[int, tuple[float, float]]) -> None:
        self._collate, self._reference = collate, reference

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch, with "ref_chosen_logps" and "ref_rejected_logps" of shape (batch,)."""
        found = torch.tensor([self._reference[example["row"]] for example in examples])
        return {**self._collate(examples), "ref_chosen_logps": found[:, 0], "ref_rejected_logps": found[:, 1]}


def images_are_encoded_once(model: Any) -> bool:
    """Whether `encode_images_once` works for this model, as its family says."""
    family = MODEL_OF.get(getattr(model.config, "model_type", ""))
    return family is not None and family.encoded_once


def encode_images_once(model: Any) -> None:
    """Let each image of a DPO batch serve its chosen and its rejected answer.

    Batches then hold n images for 2n sequences. The features are repeated after tower and projector, so the
    gradient of both answers flows through one encoding, which is the same sum.
    """
    encode = model.model.get_image_features

    def twice(*args: Any, **kwargs: Any) -> Any:
        outputs = encode(*args, **kwargs)
        outputs.pooler_output = [*outputs.pooler_output, *outputs.pooler_output]
        return outputs

    model.model.get_image_features = twice


def build_trainer(
    model: Any,
    processor: Any,
    recipe: Recipe,
    encoder: RowEncoder,
    usable: Sequence[int],
    folder: str,
    *,
    reference: Mapping[int, tuple[float, float]] | Any,
    callbacks: Sequence[Any],
    peft_config: Any = None,
    lengths: Sequence[int] | None = None,
) -> Any:
    """The trainer of a supervised or preference stage.

    Args:
        model: The model, its trainable parts set.
        processor: Its processor.
        recipe: The settings.
        encoder: The rows.
        usable: Which rows, by number.
        folder: Where the trainer keeps its checkpoints.
        reference: For DPO, log-probabilities by row, or a reference model.
        callbacks: Trainer callbacks.
        peft_config: Adapters, if any.
        lengths: Length of each usable row, where the recipe wants batches of rows of like length.

    Raises:
        UsageError: If the rows fill no step and the recipe drops what fills none.
    """
    common = {"processing_class": processor, "callbacks": list(callbacks), "peft_config": peft_config}
    trainer: Any
    if recipe.stage == "dpo":
        columns = {**_columns(usable, lengths), "prompt": [""] * len(usable)}
        trainer = _preference_trainer(model, recipe, encoder, Dataset.from_dict(columns), folder, reference, common)
    else:
        # The empty "images" column tells trl that this is vision data; the collator brings the pixels.
        dataset = Dataset.from_dict({**_columns(usable, lengths), "images": [[]] * len(usable)})
        config = SFTConfig(**trainer_settings(recipe, folder))
        collator = SupervisedCollator(encoder)
        trainer = SupervisedTrainer(model, config, data_collator=collator, train_dataset=dataset, **common)
    trainer.part_learning_rates, trainer.drop_last = recipe.part_learning_rates, recipe.drop_last
    per_step = recipe.batch_size * recipe.gradient_accumulation * trainer.args.world_size
    if recipe.drop_last and len(usable) < per_step:
        raise UsageError(
            f"{len(usable)} rows fill no step of {per_step}, and drop_last leaves out what fills none",
            hint="Lower batch_size or gradient_accumulation, or leave drop_last out.",
        )
    return trainer


def _preference_trainer(
    model: Any,
    recipe: Recipe,
    encoder: RowEncoder,
    dataset: Dataset,
    folder: str,
    reference: Any,
    common: dict[str, Any],
) -> Any:
    precomputed = isinstance(reference, Mapping)
    config = DPOConfig(
        beta=recipe.beta,
        loss_type=list(recipe.loss_weights),
        loss_weights=list(recipe.loss_weights.values()),
        label_smoothing=recipe.label_smoothing,
        precompute_ref_log_probs=precomputed,
        **trainer_settings(recipe, folder),
    )
    collate = PreferenceCollator(encoder, repeat_images=not images_are_encoded_once(model))
    trainer = PreferenceTrainer(
        model,
        # Without a reference model trl reloads one by the name in the config, which may be another model by now.
        None if precomputed else reference,
        config,
        data_collator=WithReference(collate, reference) if precomputed else collate,
        train_dataset=dataset,
        **common,
    )
    for each in [model] if precomputed else [model, reference]:
        if images_are_encoded_once(each):
            encode_images_once(each)
    return trainer


def _columns(usable: Sequence[int], lengths: Sequence[int] | None) -> dict[str, list[int]]:
    return {"row": list(usable), **({} if lengths is None else {"length": list(lengths)})}


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
        "max_length": None,  # a cut sequence loses image tokens
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
