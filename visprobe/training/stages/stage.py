"""What a stage of training is, and which ones there are."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprobe.data.progress import Progress
from visprobe.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from visprobe.mllm.batches import RowEncoder
    from visprobe.training.recipe import Recipe
    from visprobe.training.rows.usable import Need, UsableRows

ENTRY_POINTS = "visprobe.stages"


@dataclass(frozen=True)
class TrainerInputs:
    """What a trainer is made of.

    Attributes:
        model: The model, its trainable parts set.
        processor: Its processor.
        recipe: The settings, of the stage's own class.
        rows: The rows, all usable and in the shape that the stage needs.
        folder: Where the trainer keeps its checkpoints.
        callbacks: Trainer callbacks.
        progress: Called with (stage, done, total).
    """

    model: Any
    processor: Any
    recipe: Any
    rows: UsableRows
    folder: str
    callbacks: Sequence[Any] = ()
    progress: Progress | None = None

    @cached_property
    def encoder(self) -> RowEncoder:
        """The rows as tokens and pixels, each encoded once."""
        from visprobe.mllm.batches import RowEncoder

        return RowEncoder(self.processor, self.rows, end_turns=self.recipe.end_of_turn == "auto")


def _nothing(inputs: TrainerInputs) -> None:
    return None


def _no_gradient(recipe: Recipe, steps: int, metrics: Sequence[Mapping[str, float]]) -> TrainingError:
    return TrainingError(
        f"none of the first {steps} steps has a gradient: nothing is learned",
        hint="Look at the rows: whether there is anything in their answers that a loss could be on.",
    )


@dataclass(frozen=True)
class Stage:
    """One way to train. Functions of a recipe get one of the stage's own class.

    Attributes:
        name: Name of the command, `visprobe train NAME`, and of `stage` in a recipe.
        summary: What it does, in one line.
        recipe: Class of its settings: `Recipe`, or a subclass with those that no other stage has.
        need: Gives a row the shape that the stage trains on.
        trainer: Makes the trainer, from its inputs and what `prepare` has returned.
        prepare: Runs before adapters are added, with the model as it was loaded.
        examples: Options of the command, one line each, without the output folder.
        without: Common settings that mean nothing to it.
        responses: How many answers a row brings into a step.
        new_tokens: How many tokens the model writes itself, at most, after those of a row.
        whole_batches: Whether rows at the end of a pass that fill no batch are left out.
        copies_model: Whether a second model, the reference, is in memory.
        contrasts: Whether maps during training explain the chosen minus the rejected answer.
        nothing_learned: The error after so many first steps without a gradient, from recipe, steps and metrics.
        demo: Settings with which `visprobe demo` trains it; None if it is no arm of the demo.
    """

    name: str
    summary: str
    recipe: type[Recipe]
    need: Need
    trainer: Callable[[TrainerInputs, Any], Any]
    prepare: Callable[[TrainerInputs], Any] = _nothing
    examples: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    responses: Callable[[Any], int] = lambda recipe: 1
    new_tokens: Callable[[Any], int] = lambda recipe: 0
    whole_batches: bool = False
    copies_model: Callable[[Any], bool] = lambda recipe: False
    contrasts: bool = False
    nothing_learned: Callable[[Any, int, Sequence[Mapping[str, float]]], TrainingError] = _no_gradient
    demo: Mapping[str, Any] | None = None

    def takes(self, setting: str) -> bool:
        """Whether a setting of a recipe means something to it."""
        return setting in self.recipe.model_fields and setting not in self.without


@cache
def stages() -> dict[str, Stage]:
    """All stages by name: those of this folder in the order of its files, then those of installed packages.

    Raises:
        UsageError: If another package's stage cannot be loaded or has the name of another one.
    """
    folder = Path(__file__).parent
    modules = [importlib.import_module(f"{__package__}.{one.name}") for one in pkgutil.iter_modules([str(folder)])]
    found = {one.name: one for module in modules for one in vars(module).values() if isinstance(one, Stage)}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            stage = entry.load()
        except Exception as error:  # code of others may raise anything
            raise UsageError(
                f"the stage {entry.value} cannot be loaded: {error}", hint="Repair or uninstall that package."
            ) from error
        if not isinstance(stage, Stage) or stage.name in found:
            raise UsageError(
                f"{entry.value} is no Stage with a name of its own", hint="Repair or uninstall that package."
            )
        found[stage.name] = stage
    return found


def stage_of(recipe: Recipe) -> Stage:
    """The stage that a recipe is for."""
    return stages()[recipe.stage]
