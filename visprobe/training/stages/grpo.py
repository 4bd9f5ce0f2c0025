"""Group relative policy optimization with verifiable rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from visprobe.errors import TrainingError
from visprobe.training.recipe import Recipe
from visprobe.training.rows.usable import verifiable
from visprobe.training.stages.stage import Stage, TrainerInputs


class GRPORecipe(Recipe):
    """Settings of stage "grpo".

    Attributes:
        beta: Weight of the KL penalty. Without one no reference is needed, and it is what people use.
        reward: Rewards by name: "exact", "numeric", "choice", one of another package, or "module:function".
        generations: Answers per question.
        max_new_tokens: Longest answer.
        temperature: Sampling temperature.
    """

    beta: float = Field(default=0.0, ge=0)
    reward: tuple[str, ...] = Field(default=("exact",), min_length=1)
    generations: int = Field(default=8, ge=2)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)


def _trainer(inputs: TrainerInputs, prepared: Any) -> Any:
    from visprobe.training.trainers.group import group_trainer

    return group_trainer(inputs)


def _all_alike(recipe: GRPORecipe, steps: int, metrics: Sequence[Mapping[str, float]]) -> TrainingError:
    mean = sum(line.get("reward", 0) for line in metrics) / max(1, len(metrics))
    return TrainingError(
        f"none of the first {steps} steps taught anything: all answers to a question earned the same reward "
        f"({', '.join(recipe.reward)}, {mean:.3g} on average)",
        hint="Look at a few answers: raise max_new_tokens if they are cut off, generations or temperature if they "
        "are all alike, and take a reward that fits the reference answers (--set reward=exact, numeric or choice).",
    )


def _find_rewards(recipe: GRPORecipe) -> None:
    from visprobe.training.trainers.rewards import find_reward

    for name in recipe.reward:
        find_reward(name)


GRPO = Stage(
    name="grpo",
    summary="Group-relative policy optimization: the model's own answers, scored by verifiable rewards.",
    recipe=GRPORecipe,
    need=verifiable,
    trainer=_trainer,
    check=_find_rewards,
    examples=(
        "--base checkpoints/base --data digits --set reward=exact",
        "--base checkpoints/base --data digits --attribution-every 50",
    ),
    without=("group_by_length", "drop_last", "end_of_turn"),
    responses=lambda recipe: recipe.generations,
    new_tokens=lambda recipe: recipe.max_new_tokens,
    whole_batches=True,
    copies_model=lambda recipe: recipe.beta > 0,
    nothing_learned=_all_alike,
    demo={"max_new_tokens": 3, "generations": 8},
)
