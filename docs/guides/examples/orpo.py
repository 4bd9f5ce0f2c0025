"""Odds ratio preference optimization: it learns the chosen answer and turns from the rejected one, without a reference.

Source: Hong, Lee and Thorne, "ORPO: Monolithic Preference Optimization without Reference Model" (arXiv 2403.07691),
equations 4 to 7.
"""

from pydantic import Field

from visprobe.training.recipe import Recipe
from visprobe.training.rows.usable import preference
from visprobe.training.stages import Stage


class ORPORecipe(Recipe):
    """Settings of stage "orpo".

    Attributes:
        odds_weight: Weight of the odds ratio beside the cross-entropy of the chosen answer.
    """

    odds_weight: float = Field(default=0.1, ge=0)


def trainer(inputs, prepared):
    """The trainer; its libraries take seconds to import, so they wait until a run begins."""
    from orpo_trainer import orpo_trainer

    return orpo_trainer(inputs)


ORPO = Stage(
    name="orpo",
    summary="Odds ratio preference optimization: chosen against rejected answers, without a reference.",
    recipe=ORPORecipe,
    need=preference,
    trainer=trainer,
    examples=("--base checkpoints/base --data digits --set odds_weight=0.2",),
    responses=lambda recipe: 2,
    contrasts=True,
    demo={},
)
