"""Stages with a cross-entropy loss on the answers of the rows."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from visprobe.training.recipe import Recipe
from visprobe.training.rows.usable import supervised
from visprobe.training.stages.stage import Stage, TrainerInputs


class ProjectorRecipe(Recipe):
    """Settings of stage "projector"; it trains nothing else."""

    train: tuple[str, ...] = Field(default=("projector",), min_length=1)

    @field_validator("train")
    @classmethod
    def _alone(cls, train: tuple[str, ...]) -> tuple[str, ...]:
        if train != ("projector",):
            raise ValueError("stage projector trains the projector alone; leave `train` out")
        return train


def _trainer(inputs: TrainerInputs, prepared: Any) -> Any:
    from visprobe.training.trainers.supervised import supervised_trainer

    return supervised_trainer(inputs)


PROJECTOR = Stage(
    name="projector",
    summary="Train the projector alone, on captions (stage 1a of the paper).",
    recipe=ProjectorRecipe,
    need=supervised,
    trainer=_trainer,
    examples=(
        "--vision-tower checkpoints/siglip2-so400m-patch16-384 --language-model Qwen/Qwen2.5-1.5B-Instruct --data "
        "data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json --images data/LLaVA-Pretrain/images",
        "--config training/1a-projector.yaml --vision-tower checkpoints/siglip2-so400m-patch16-384 --language-model "
        "Qwen/Qwen2.5-1.5B-Instruct",
    ),
)
FULL = Stage(
    name="full",
    summary="Train tower, projector and language model together (stage 1b of the paper).",
    recipe=Recipe,
    need=supervised,
    trainer=_trainer,
    examples=(
        "--base checkpoints/1a-projector --data data/onevision-single-image.yaml --images data/onevision "
        "--vision-learning-rate 2e-6",
        "--config training/1b-full.yaml --seed 1",
    ),
)
SFT = Stage(
    name="sft",
    summary="Supervised fine-tuning: cross-entropy on the chosen answers.",
    recipe=Recipe,
    need=supervised,
    trainer=_trainer,
    examples=("--base checkpoints/base --data digits", "--config training/2-sft.yaml --snapshot-tower-every 20"),
    demo={},
)
