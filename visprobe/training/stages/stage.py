"""Definition of a training stage, and the registry of stages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprobe.data.progress import Progress
from visprobe.errors import TrainingError
from visprobe.io.plug_ins import named_plug_ins

if TYPE_CHECKING:
    from visprobe.mllm.batches import RowEncoder
    from visprobe.training.recipe import Recipe
    from visprobe.training.rows.usable import Need, UsableRows

ENTRY_POINTS = "visprobe.stages"


@dataclass(frozen=True)
class TrainerInputs:
    """Inputs of a stage's trainer.

    Attributes:
        model: Model with its trainable parts set.
        processor: Processor of the model.
        recipe: Settings, of the stage's own class.
        rows: Usable rows, in the shape that the stage needs.
        folder: Folder of the trainer's checkpoints.
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
        """Encoder of rows to tokens and pixels, each row encoded once."""
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
    """Training stage. Callables that take a recipe get one of the stage's own class.

    Attributes:
        name: Name of the command, `visprobe train NAME`, and of `stage` in a recipe.
        summary: One line on what the stage does.
        recipe: Class of its settings: `Recipe`, or a subclass with further settings.
        need: Converts a row to the shape that the stage trains on.
        trainer: Makes the trainer, from its inputs and the result of `prepare`.
        check: Raises UsageError if a setting names what is not there; called before anything is read.
        prepare: Runs before adapters are added, on the model as loaded.
        examples: Example options of the command, one line each, without the output folder.
        without: Common settings without meaning for the stage.
        responses: Number of answers that a row adds to a step.
        new_tokens: Largest number of tokens that the model generates after those of a row.
        whole_batches: Whether rows at the end of a pass that fill no batch are left out.
        copies_model: Whether a second model, the reference, is in memory.
        contrasts: Whether maps during training explain the chosen minus the rejected answer.
        nothing_learned: Makes the error for a start without gradients, from recipe, steps and metrics.
        demo: Settings with which `visprobe demo` trains it; None if it is no arm of the demo.
    """

    name: str
    summary: str
    recipe: type[Recipe]
    need: Need
    trainer: Callable[[TrainerInputs, Any], Any]
    check: Callable[[Any], object] = lambda recipe: None
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
        """Return whether a recipe setting has a meaning for the stage."""
        return setting in self.recipe.model_fields and setting not in self.without


@cache
def stages() -> dict[str, Stage]:
    """Return all stages by name: those of this folder in the order of its files, then those of installed packages.

    Raises:
        UsageError: If another package's stage cannot be loaded or its name is taken.
    """
    folder = Path(__file__).parent
    modules = [importlib.import_module(f"{__package__}.{one.name}") for one in pkgutil.iter_modules([str(folder)])]
    found = {one.name: one for module in modules for one in vars(module).values() if isinstance(one, Stage)}
    return found | named_plug_ins(ENTRY_POINTS, Stage, "stage", found)


def stage_of(recipe: Recipe) -> Stage:
    """Return the stage of a recipe."""
    return stages()[recipe.stage]
