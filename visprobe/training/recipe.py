"""Recipe of a training run: all settings, checked together before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from visprobe.errors import UsageError
from visprobe.io.regular import read_text
from visprobe.io.yaml_text import yaml_value
from visprobe.mllm import Resample
from visprobe.training.stages import stages

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# Only schedules of transformers that need no further settings.
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]
Part = Literal["vision_tower", "projector", "language_model"]
DEFAULT_TRAIN: tuple[str, ...] = get_args(Part)
MOST_ROWS = 10**12


class Lora(BaseModel):
    """Low-rank adapters instead of full weights, merged into the checkpoint that is saved.

    Attributes:
        parts: Parts that get adapters; they are then frozen but for these.
        rank: Rank of the adapters.
        alpha: Scale of the adapters; their output is multiplied by alpha / rank.
        dropout: Dropout on the adapters' input.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    parts: tuple[str, ...] = ("language_model",)
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Recipe(BaseModel):
    """Settings of one training run. Two arms of a study should differ in `stage` and what belongs to it.

    `Recipe(stage="dpo", beta=0.3)` is a recipe of the stage's own class, which has the settings that are only its own.

    Attributes:
        stage: Name of the stage, one of `visprobe.training.stages.stages`.
        steps: Optimizer steps; None to go by epochs.
        epochs: Passes over the rows, where `steps` is None.
        batch_size: Rows per step and process.
        gradient_accumulation: Batches per optimizer step.
        learning_rate: Peak learning rate of AdamW.
        part_learning_rates: Learning rates of single parts, by part name.
        warmup: Share of the steps in which the learning rate rises.
        schedule: Learning-rate schedule after that, by its transformers name.
        weight_decay: Decay of matrices; never of norms and biases.
        max_gradient_norm: Gradients longer than this are shortened to it.
        train: What is trained: parts, or a range of the tower's blocks, "vision_tower.blocks[8:12]".
        lora: Adapters instead of full weights.
        precision: "auto" is bfloat16 where the device has it, else float32.
        gradient_checkpointing: Recompute activations to save memory.
        group_by_length: Batches of rows of like length.
        drop_last: Whether rows at the end of a pass that fill no optimizer step are left out of it, as in the paper.
        image_required: Whether rows without images are left out.
        resample: Filter that images are resized with, whatever the image processor says; "processor" leaves it to that.
        end_of_turn: "auto" gives an answer after which the chat template writes no end of turn the tokenizer's
            end-of-sequence token; "none" leaves it to the template.
        save_every: Steps between checkpoints that a stopped run resumes from; 0 for none. The last one stays when the
            run is finished, so that it can be extended by more steps.
        snapshot_tower_every: Steps between copies of tower and projector alone; 0 for none.
        probe_every: Steps between measurements of drift and prototype accuracy; 0 for none.
        probe_images: Images of those measurements, as `--data` takes them.
        attribution_every: Steps between maps of where the model looks in a few pictures; 0 for none.
        log_every: Steps between lines of metrics.jsonl.
        report_to: Trackers of transformers' trainer: "tensorboard", "wandb".
        seed: Seed of the row order and everything else that is random.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    stage: str
    steps: int | None = Field(default=None, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-5, ge=0)
    part_learning_rates: dict[Part, Annotated[float, Field(ge=0)]] = {}
    warmup: float = Field(default=0.03, ge=0, lt=1)
    schedule: Schedule = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    train: tuple[str, ...] = Field(default=DEFAULT_TRAIN, min_length=1)
    lora: Lora | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gradient_checkpointing: bool = False
    group_by_length: bool = False
    drop_last: bool = False
    image_required: bool = True
    resample: Resample = "processor"
    end_of_turn: Literal["auto", "none"] = "auto"
    save_every: int = Field(default=0, ge=0)
    snapshot_tower_every: int = Field(default=0, ge=0)
    probe_every: int = Field(default=0, ge=0)
    probe_images: str = "digits"
    attribution_every: int = Field(default=0, ge=0)
    log_every: int = Field(default=1, ge=1)
    report_to: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**32)

    def __new__(cls, **settings: Any) -> Self:
        """Make a recipe of its stage's class; `__init__` refuses unknown stages."""
        stage = stages().get(str(settings.get("stage"))) if cls is Recipe else None
        return super().__new__(stage.recipe if stage else cls)  # type: ignore[return-value]

    @field_validator("stage", mode="before")
    @classmethod
    def _exists(cls, stage: Any) -> Any:
        if stage not in list(stages()):
            *names, last = map(repr, stages())
            raise ValueError(f"stage: input should be {', '.join(names)} or {last}")
        return stage

    def faults(self) -> list[str]:
        """Return faults that concern several settings together."""
        rows = (self.steps or 1) * self.batch_size * self.gradient_accumulation
        return ["steps x batch_size x gradient_accumulation: no run sees so many rows"] if rows > MOST_ROWS else []


def make_recipe(settings: Mapping[str, Any], where: str, known: Sequence[str] = ()) -> Recipe:
    """Make a recipe from plain values, reporting all faults at once.

    Args:
        settings: Values by field name; a string may stand for a sequence, its items separated by commas.
        where: Origin of the values, for the message: "recipe.yaml", "the command line".
        known: Keys handled elsewhere that an unknown key may be a misspelling of.

    Raises:
        UsageError: If a key is unknown (the nearest known one is named), a value does not fit, or a setting has
            no meaning for the stage.
    """
    stage = settings.get("stage")
    values = {key: _listed(key, value) for key, value in settings.items()}
    idle = {key: names for key in values if (names := _only(key)) and stage not in names}
    try:
        recipe = Recipe(**values)
        faults = recipe.faults()
    except ValidationError as error:
        faults = [_fault(item, known) for item in error.errors() if not idle.keys() & item["loc"][:1]]
    if isinstance(stage, str):
        faults += [f"{key} has no meaning for stage {stage} (only {', '.join(names)})" for key, names in idle.items()]
    if "probe_images" in values and not values.get("probe_every"):
        faults.append("probe_images has no meaning without probe_every")
    if "warmup" in values and values.get("schedule") == "constant":
        faults.append("warmup has no meaning for schedule constant (constant_with_warmup has one)")
    if faults:
        raise UsageError(f"{where}: " + "; ".join(faults), hint=_settings_of(stage))
    return recipe


def _only(setting: str) -> list[str]:
    """Return the stages that have a setting, or none if all have it."""
    names = [name for name, stage in stages().items() if stage.takes(setting)]
    return names if len(names) < len(stages()) else []


def own_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a written recipe without settings of other stages, which earlier versions wrote too."""
    stage = stages().get(str(recipe.get("stage")))
    own = set(stage.recipe.model_fields) if stage else recipe.keys()
    return {key: value for key, value in recipe.items() if key in own or not _only(key)}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        UsageError: If the file is missing, not YAML, or holds no mapping.
    """
    try:
        value = yaml_value(read_text(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="Check the path after --config.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}", hint="Mend that line.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no settings", hint="Write one `key: value` per line.")
    return value


def _settings_of(stage: object) -> str:
    found = stages().get(str(stage))
    names = sorted(name for name in (found.recipe if found else Recipe).model_fields if not found or found.takes(name))
    return f"The settings of {found.name if found else 'every stage'} are {', '.join(names)}."


def nearest(name: str, known: list[str]) -> str:
    """Return a hint at the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _listed(key: str, value: Any) -> Any:
    fields = (stage.recipe.model_fields.get(key) for stage in stages().values())
    if isinstance(value, str) and any(field and get_origin(field.annotation) is tuple for field in fields):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def _fault(item: ErrorDetails, known: Sequence[str]) -> str:
    where, text = item["loc"], item["msg"]
    if item["type"] == "extra_forbidden":
        fields = [*Recipe.model_fields, *(key for stage in stages().values() for key in stage.recipe.model_fields)]
        return f"unknown key {'.'.join(map(str, where))}" + nearest(str(where[-1]), [*dict.fromkeys(fields), *known])
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    return f"{'.'.join(map(str, where))}: {text[0].lower()}{text[1:]}"
