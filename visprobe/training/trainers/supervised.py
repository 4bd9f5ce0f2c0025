"""Trainer of supervised stages, on trl's."""

from __future__ import annotations

from typing import Any

from trl import SFTConfig, SFTTrainer

from visprobe.mllm.batches import SupervisedCollator
from visprobe.training.stages import TrainerInputs
from visprobe.training.trainers.common import make_trainer, trainer_settings
from visprobe.training.trainers.mixins import OrderBySeed, PartLearningRates, ResumeByName


class SupervisedTrainer(OrderBySeed, PartLearningRates, ResumeByName, SFTTrainer):  # type: ignore[misc]
    """trl's SFTTrainer with a learning rate per part."""


def supervised_trainer(inputs: TrainerInputs) -> Any:
    """Make the trainer of the stages with a cross-entropy loss.

    Raises:
        UsageError: If drop_last is set and the rows do not fill one step.
    """
    config = SFTConfig(**trainer_settings(inputs.recipe, inputs.folder), max_length=None)  # a cut loses image tokens
    collator = SupervisedCollator(inputs.encoder)
    # An empty "images" tells trl that this is vision data.
    return make_trainer(SupervisedTrainer, config, inputs, collator, columns={"images": []})
