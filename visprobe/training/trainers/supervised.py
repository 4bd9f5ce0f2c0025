"""Supervised training, by trl's trainer."""

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
    """The trainer of stages that learn the answers of their rows.

    Raises:
        UsageError: If the rows fill no step and the recipe drops what fills none.
    """
    config = SFTConfig(**trainer_settings(inputs.recipe, inputs.folder), max_length=None)  # cutting loses image tokens
    collator = SupervisedCollator(inputs.encoder)
    # An empty "images" tells trl that this is vision data.
    return make_trainer(SupervisedTrainer, config, inputs, collator, columns={"images": []})
