"""The recipe of a training run: every setting, checked together before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visprobe.errors import UsageError
from visprobe.io.regular import read_text
from visprobe.io.yaml_text import yaml_value
from visprobe.mllm import Resample

Stage = Literal["projector", "full", "sft", "dpo", "grpo"]
# Those of transformers that need no further settings.
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
# Mixed preference optimization (arXiv 2411.10442): DPO, BCO and SFT losses at these weights. trl's BCO has no reward
# shift, which in the paper is a running mean of the rewards.
MPO = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
_SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # trl's other losses ignore label_smoothing
_LOSSES = (
    *("sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"),
    *("discopop", "sft"),
    *_SMOOTHED,
)
_ONLY: Mapping[str, tuple[Stage, ...]] = {
    "beta": ("dpo", "grpo"),
    "losses": ("dpo",),
    "label_smoothing": ("dpo",),
    "reference": ("dpo",),
    "reward": ("grpo",),
    "generations": ("grpo",),
    "max_new_tokens": ("grpo",),
    "temperature": ("grpo",),
    "group_by_length": ("projector", "full", "sft", "dpo"),
    "drop_last": ("projector", "full", "sft", "dpo"),
    "end_of_turn": ("projector", "full", "sft", "dpo"),
}


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

    Attributes:
        stage: "projector" (projector only), "full" (everything), "sft" (cross-entropy on the answers), "dpo"
            (chosen against rejected answers), "grpo" (verifiable rewards).
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
        beta: Temperature of DPO; weight of the KL penalty of GRPO, where the default is 0.
        losses: DPO loss types and their weights, as trl names them; "mpo" for the mixed preset.
        label_smoothing: Probability that a preference is wrong, for the losses that allow for it ("robust", ...).
        reference: "model" keeps a copy of the start in memory; "precomputed" runs it once over the rows.
        reward: GRPO's rewards, by name: "exact", "numeric", "choice", or "module:function".
        generations: GRPO's answers per question.
        max_new_tokens: GRPO's longest answer.
        temperature: GRPO's sampling temperature.
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

    stage: Stage
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
    beta: float = Field(default=0.1, ge=0)
    losses: dict[str, float] | Literal["mpo"] = {"sigmoid": 1.0}
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    reference: Literal["model", "precomputed"] = "precomputed"
    reward: tuple[str, ...] = Field(default=("exact",), min_length=1)
    generations: int = Field(default=8, ge=2)
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
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

    @property
    def loss_weights(self) -> dict[str, float]:
        """DPO loss types and their weights, presets written out."""
        return MPO if self.losses == "mpo" else dict(self.losses)


def make_recipe(settings: Mapping[str, Any], where: str, known: Sequence[str] = ()) -> Recipe:
    """A recipe from plain values, with every fault of them reported at once.

    Args:
        settings: Values by field name; a string may stand for a sequence, its items separated by commas.
        where: Where they come from, for the message: "recipe.yaml", "the command line".
        known: Keys that are handled elsewhere and may be what an unknown key was meant to be.

    Raises:
        UsageError: If a key is unknown (the nearest known one is named), a value does not fit, or a setting has
            no meaning for the stage.
    """
    values = {key: _listed(key, value) for key, value in settings.items()}
    if values.get("stage") == "grpo":
        values.setdefault("beta", 0.0)  # without a KL penalty no reference is needed, and it is what people use
    try:
        recipe = Recipe(**values)
    except ValidationError as error:
        faults = [_fault(item["loc"], item["type"], item["msg"], known) for item in error.errors()]
    else:
        faults = [*_loss_faults(recipe), *_count_faults(recipe)]
    stage = values.get("stage")
    for key, stages in _ONLY.items():
        if key in values and stage not in stages and isinstance(stage, str):
            faults.append(f"{key} has no meaning for stage {stage} (only {', '.join(stages)})")
    if "probe_images" in values and not values.get("probe_every"):
        faults.append("probe_images has no meaning without probe_every")
    if "warmup" in values and values.get("schedule") == "constant":
        faults.append("warmup has no meaning for schedule constant (constant_with_warmup has one)")
    if values.get("stage") == "projector" and values.get("train", ("projector",)) != ("projector",):
        faults.append("stage projector trains the projector alone; leave `train` out")
    if faults:
        raise UsageError(f"{where}: " + "; ".join(faults), hint="visprobe train STAGE --help lists the settings.")
    return recipe if recipe.stage != "projector" else recipe.model_copy(update={"train": ("projector",)})


def _loss_faults(recipe: Recipe) -> list[str]:
    faults = [] if recipe.loss_weights else ["losses: name at least one"]
    faults += [f"losses: no such loss: {n}{nearest(n, list(_LOSSES))}" for n in recipe.loss_weights if n not in _LOSSES]
    if recipe.label_smoothing and not set(_SMOOTHED) & set(recipe.loss_weights):
        faults.append(
            f"label_smoothing has no meaning for losses {', '.join(recipe.loss_weights)} (only {', '.join(_SMOOTHED)})"
        )
    if "exo_pair" in recipe.loss_weights and not recipe.label_smoothing:
        faults.append("exo_pair needs a label_smoothing above 0, 1e-3 for example")
    return faults


def _count_faults(recipe: Recipe) -> list[str]:
    rows = (recipe.steps or 1) * recipe.batch_size * recipe.gradient_accumulation
    return ["steps x batch_size x gradient_accumulation: no run sees so many rows"] if rows > MOST_ROWS else []


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: If the file is missing, no YAML, or holds something else than a mapping.
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


def nearest(name: str, known: list[str]) -> str:
    """A hint at the known name that `name` was probably meant to be, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _listed(key: str, value: Any) -> Any:
    if key in {"train", "reward", "report_to"} and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


def _fault(where: tuple[int | str, ...], kind: str, text: str, known: Sequence[str]) -> str:
    name = ".".join(map(str, where))
    if kind == "extra_forbidden":
        return f"unknown key {name}" + nearest(str(where[-1]), [*Recipe.model_fields, *known])
    return f"{name}: {text[0].lower()}{text[1:]}"
