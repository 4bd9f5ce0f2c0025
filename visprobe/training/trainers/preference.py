"""Direct preference optimization (DPO) on trl's trainer, with the reference's log-probabilities computed in advance.

The reference is the initial model. Running it once over the rows saves its copy in memory, and one forward pass per
batch from the second epoch on; trl itself refuses to do this for images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from visprobe.data.progress import Progress
from visprobe.mllm.batches import PreferenceCollator, RowEncoder
from visprobe.training.stages import TrainerInputs
from visprobe.training.stages.dpo import DPORecipe
from visprobe.training.trainers.common import (
    images_are_encoded_once,
    make_trainer,
    resolved_precision,
    trainer_settings,
)
from visprobe.training.trainers.mixins import OrderBySeed, PartLearningRates, ResumeByName


class PreferenceTrainer(OrderBySeed, PartLearningRates, ResumeByName, DPOTrainer):  # type: ignore[misc]
    """trl's DPOTrainer with a learning rate per part, on batches prepared by a collator."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # the collator tokenizes rows

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # the collator adds them

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["row"]


class WithReference:
    """Collator that adds the reference's log-probabilities to the batches of a `PreferenceCollator`."""

    def __init__(self, collate: PreferenceCollator, reference: Mapping[int, tuple[float, float]]) -> None:
        self._collate, self._reference = collate, reference

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch, with "ref_chosen_logps" and "ref_rejected_logps" of shape (batch,)."""
        found = torch.tensor([self._reference[example["row"]] for example in examples])
        return {**self._collate(examples), "ref_chosen_logps": found[:, 0], "ref_rejected_logps": found[:, 1]}


def preference_trainer(inputs: TrainerInputs, reference: Any) -> Any:
    """Make the trainer of stage "dpo".

    Args:
        inputs: Model, rows, recipe and callbacks.
        reference: Result of `reference_of`: log-probabilities by row, or a model.

    Raises:
        UsageError: If drop_last is set and the rows do not fill one step.
    """
    recipe: DPORecipe = inputs.recipe
    precomputed = isinstance(reference, Mapping)
    config = DPOConfig(
        beta=recipe.beta,
        loss_type=list(recipe.loss_weights),
        loss_weights=list(recipe.loss_weights.values()),
        label_smoothing=recipe.label_smoothing,
        precompute_ref_log_probs=precomputed,
        max_length=None,  # cutting a sequence would lose image tokens
        **trainer_settings(recipe, inputs.folder),
    )
    collate = PreferenceCollator(inputs.encoder, repeat_images=not images_are_encoded_once(inputs.model))
    trainer = make_trainer(
        PreferenceTrainer,
        config,
        inputs,
        WithReference(collate, reference) if precomputed else collate,
        # Without a reference model trl reloads one by the name in the config, which may have changed since.
        ref_model=None if precomputed else reference,
        columns={"prompt": ""},
    )
    for each in [inputs.model] if precomputed else [inputs.model, reference]:
        if images_are_encoded_once(each):
            encode_images_once(each)
    return trainer


def encode_images_once(model: Any) -> None:
    """Encode each image of a DPO batch once for its chosen and its rejected answer.

    Batches then hold n images for 2n sequences, all chosen ones first. Features are repeated after tower and
    projector, so the gradients of both answers sum up in one encoding, as they would over copies.
    """
    encode = model.model.get_image_features

    def twice(*args: Any, **kwargs: Any) -> Any:
        outputs = encode(*args, **kwargs)
        outputs.pooler_output = [*outputs.pooler_output, *outputs.pooler_output]
        return outputs

    model.model.get_image_features = twice


def reference_of(inputs: TrainerInputs) -> Any:
    """Return the initial model as a frozen copy, or its log-probabilities by row, as the recipe says."""
    recipe: DPORecipe = inputs.recipe
    if recipe.reference == "model":
        return copy.deepcopy(inputs.model).requires_grad_(False).eval()
    return reference_log_probabilities(
        inputs.model,
        inputs.encoder,
        list(range(len(inputs.rows))),
        batch_size=recipe.batch_size,
        precision=resolved_precision(recipe.precision),
        progress=inputs.progress,
    )


def reference_log_probabilities(
    model: Any,
    encoder: RowEncoder,
    rows: list[int],
    *,
    batch_size: int,
    precision: str = "float32",
    progress: Progress | None = None,
) -> dict[int, tuple[float, float]]:
    """Compute the summed log-probabilities of the chosen and the rejected answer of each row.

    Several processes share the rows, and each gets the numbers of all.

    Args:
        model: Initial model; moved to the process's own device.
        encoder: Encoder of the rows.
        rows: Row numbers.
        batch_size: Rows per forward pass.
        precision: Precision of the policy in training: "float32", "bfloat16" or "float16".
        progress: Called with (stage, rows done, rows of this process).

    Returns:
        (chosen, rejected) by row number, natural logarithms.
    """
    processes = PartialState(cpu=not torch.cuda.is_available())
    device = processes.device
    model.to(device)
    mine = rows[processes.process_index :: processes.num_processes]
    collate = PreferenceCollator(encoder)
    found: dict[int, tuple[float, float]] = {}
    was_training = model.training
    model.eval()
    autocast = torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")
    with torch.inference_mode(), autocast:
        for start in range(0, len(mine), batch_size):
            numbers = mine[start : start + batch_size]
            batch = {k: v.to(device) for k, v in collate([{"row": number} for number in numbers]).items()}
            chosen, rejected = answer_log_probabilities(model, batch).chunk(2)
            found.update(zip(numbers, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True))
            if progress:
                progress("reference", start + len(numbers), len(mine))
    model.train(was_training)
    return dict(gather_object(list(found.items())))


def answer_log_probabilities(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the summed log-probability of each answer in a batch of `PreferenceCollator`, shape (2 batch,)."""
    # Logits at a position score the next token, hence the shift by one against ids and mask.
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    scores = logits[:, :-1].float().log_softmax(-1)
    tokens = scores.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (tokens * batch["completion_mask"][:, 1:]).sum(1)
