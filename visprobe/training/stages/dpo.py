"""Direct preference optimization."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from visprobe.training.recipe import Recipe, nearest
from visprobe.training.rows.usable import preference
from visprobe.training.stages.stage import Stage, TrainerInputs

# Mixed preference optimization (arXiv 2411.10442): DPO, BCO and SFT losses at these weights. trl's BCO has no reward
# shift, which in the paper is a running mean of the rewards.
MPO = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # trl's other losses ignore label_smoothing
LOSSES = (
    *("sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"),
    *("discopop", "sft"),
    *SMOOTHED,
)


class DPORecipe(Recipe):
    """Settings of stage "dpo".

    Attributes:
        beta: Temperature.
        losses: Loss types and their weights, as trl names them; "mpo" for the mixed preset.
        label_smoothing: Probability that a preference is wrong, for the losses that allow for it ("robust", ...).
        reference: "model" keeps a copy of the start in memory; "precomputed" runs it once over the rows.
    """

    beta: float = Field(default=0.1, ge=0)
    losses: dict[str, float] | Literal["mpo"] = Field(default={"sigmoid": 1.0})
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    reference: Literal["model", "precomputed"] = "precomputed"

    @property
    def loss_weights(self) -> dict[str, float]:
        """Loss types and their weights, with presets expanded."""
        return MPO if self.losses == "mpo" else dict(self.losses)

    def faults(self) -> list[str]:
        """Return unknown losses and misuse of label_smoothing, beside the faults of any recipe."""
        names = list(self.loss_weights)
        faults = [] if names else ["losses: name at least one"]
        faults += [f"losses: no such loss: {n}{nearest(n, list(LOSSES))}" for n in names if n not in LOSSES]
        if self.label_smoothing and not set(SMOOTHED) & set(names):
            faults.append(f"label_smoothing has no meaning for losses {', '.join(names)} (only {', '.join(SMOOTHED)})")
        if "exo_pair" in names and not self.label_smoothing:
            faults.append("exo_pair needs a label_smoothing above 0, 1e-3 for example")
        return faults + super().faults()


def _reference(inputs: TrainerInputs) -> Any:
    from visprobe.training.trainers.preference import reference_of

    return reference_of(inputs)


def _trainer(inputs: TrainerInputs, reference: Any) -> Any:
    from visprobe.training.trainers.preference import preference_trainer

    return preference_trainer(inputs, reference)


DPO = Stage(
    name="dpo",
    summary="Direct preference optimization: chosen against rejected answers, on the rows that sft takes.",
    recipe=DPORecipe,
    need=preference,
    trainer=_trainer,
    prepare=_reference,
    examples=(
        "--base checkpoints/base --data digits --set beta=0.3",
        "--config training/2-dpo.yaml --learning-rate 1e-6",
    ),
    responses=lambda recipe: 2,
    copies_model=lambda recipe: recipe.reference == "model",
    contrasts=True,
    demo={},
)
