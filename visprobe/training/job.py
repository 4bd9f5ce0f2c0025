"""Training jobs: the model to start from, rows, recipe, and the origin of each setting."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from visprobe.data.named import named_data
from visprobe.data.rows import Rows
from visprobe.errors import CheckpointError, UsageError
from visprobe.io.atomic import replacing, write_json
from visprobe.io.lock import locked
from visprobe.io.yaml_text import yaml_value
from visprobe.training.launch import process_count
from visprobe.training.recipe import MOST_ROWS, Recipe, make_recipe, read_yaml
from visprobe.training.run_folder.folder import first_steps, listed, refuse_unknown, visible_names, way_out
from visprobe.training.run_folder.manifest import weights_hash

if TYPE_CHECKING:  # its libraries take seconds to import
    from visprobe.training.on_paper import Plan
    from visprobe.training.run import RunOptions

_NEW_MODEL = ("chat_template", "image_size", "feature_layer")  # without meaning for an existing model
MADE_OF = "made_of.json"  # in the folder of a new model: what it was put together from


class Sources(BaseModel):
    """What a job starts from.

    Attributes:
        base: Multimodal model: a folder, or a hub id.
        vision_tower: Vision tower of a new model, instead of `base`.
        language_model: Language model of a new model, instead of `base`.
        chat_template: Jinja file, for a language model without a chat template.
        image_size: Side of the square images of a new model; by default that of the tower.
        feature_layer: Block of the tower, counted from the input, that a new model reads; by default the last but one.
        data: Training rows, as `open_rows` takes them.
        images: Folder that image paths in the rows start from.
        rows: At most so many rows, the first ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str | None = None
    vision_tower: str | None = None
    language_model: str | None = None
    chat_template: Path | None = None
    image_size: int | None = Field(default=None, ge=1)
    feature_layer: int | None = Field(default=None, ge=1)
    data: str = "digits"
    images: Path | None = None
    rows: int | None = Field(default=None, ge=1, le=MOST_ROWS)


class Job(BaseModel):
    """Sources, recipe, and the origin of every setting that is not a default."""

    model_config = ConfigDict(frozen=True)

    sources: Sources
    recipe: Recipe
    origins: dict[str, str]


def make_job(
    stage: str,
    config: Path | None,
    flags: Mapping[str, Any],
    settings: Sequence[str] = (),
    vision_learning_rate: float | None = None,
) -> Job:
    """Make a job from a recipe file, flags and `key=value` settings, later ones winning.

    Raises:
        UsageError: If anything in them is wrong; all faults are named at once.
    """
    from_file = read_yaml(config) if config else {}
    given = {key: value for key, value in flags.items() if value is not None}
    assigned = dict(_assignment(text) for text in settings)
    if "stage" in assigned:
        raise UsageError(
            f"--set stage={assigned['stage']}: the stage is the command's own, {stage}",
            hint=f"Run visprobe train {assigned['stage']}.",
        )
    _refuse_idle({**given, **assigned})
    values = {**from_file, **given, **assigned, "stage": stage}
    named = from_file.get("stage", stage)
    if named != stage:
        raise UsageError(
            f"{config} is a recipe of stage {str(named)[:80]!r}, not {stage}",
            hint="Run visprobe train with that stage, or leave `stage` out of the recipe.",
        )
    rates = values.get("part_learning_rates", {})
    if vision_learning_rate is not None and isinstance(rates, dict):  # other types are refused with the other faults
        values["part_learning_rates"] = {**rates, "vision_tower": vision_learning_rate}
    origins = {key: str(config) for key in from_file} | dict.fromkeys(given, "flag") | dict.fromkeys(assigned, "--set")
    sources = {key: values.pop(key) for key in list(values) if key in Sources.model_fields}
    recipe = make_recipe(values, str(config) if config else "the command line", known=list(Sources.model_fields))
    return Job(sources=check_sources(make_sources(sources)), recipe=recipe, origins=origins)


def _refuse_idle(given: Mapping[str, Any]) -> None:
    """Refuse contradicting settings of one command; a recipe file may hold both for flags to override."""
    if "steps" in given and "epochs" in given:
        raise UsageError("steps and epochs both say how long to train", hint="Give one of the two.")
    if "images" in given and named_data(str(given.get("data"))):
        raise UsageError(f"{given['data']} has its own images", hint="Leave --images out.")


def make_sources(values: Mapping[str, Any]) -> Sources:
    """Make sources from plain values.

    Raises:
        UsageError: If a value does not fit; all faults are named at once.
    """
    try:
        return Sources(**values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise UsageError("; ".join(faults), hint="visprobe train STAGE --help lists these options.") from error


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: not of the form key=value", hint="Write --set beta=0.3, for example.")
    try:
        return key.strip().replace("-", "_"), yaml_value(value)
    except ValueError as error:
        raise UsageError(
            f"--set {text[:80]}: the value is not YAML: {error}", hint="Close every bracket and quote."
        ) from error


def check_sources(sources: Sources) -> Sources:
    """Return the sources if they name exactly one model to start from.

    Raises:
        UsageError: If they name none, or both a base and the parts of a new model.
    """
    new = sources.vision_tower is not None or sources.language_model is not None
    if sources.base is None and not new:
        raise UsageError("there is no model to start from", hint="Give --base, or --vision-tower and --language-model.")
    if sources.base is not None and new:
        raise UsageError("both a base and the parts of a new model were given", hint="Give one of the two.")
    idle = [key for key in _NEW_MODEL if getattr(sources, key) is not None]
    if sources.base is not None and idle:
        raise UsageError(f"a base has its own {', '.join(idle)}", hint="Leave it out; it is for a new model.")
    if new and (sources.vision_tower is None or sources.language_model is None):
        raise UsageError("a new model needs a tower and an LLM", hint="Give --vision-tower and --language-model.")
    return sources


def open_job_rows(sources: Sources, recipe: Recipe, output_dir: Path, *, overwrite: bool = False) -> Rows:
    """Open the rows of a job; built-in ones as many as the run sees, or would have seen before it was extended."""
    from visprobe.training.rows.combine import Selected
    from visprobe.training.rows.open import open_rows

    if named := named_data(sources.data):
        steps = first_steps(output_dir, recipe, overwrite=overwrite) or recipe.steps or 0
        seen = steps * recipe.batch_size * recipe.gradient_accumulation * process_count()
        return named.rows(sources.rows or seen or None, recipe.seed)
    rows = open_rows(sources.data, sources.images, seed=recipe.seed)
    return Selected(rows, range(min(sources.rows, len(rows)))) if sources.rows else rows


def run_job(job: Job, output_dir: Path, **options: Unpack[RunOptions]) -> dict[str, Any]:
    """Run a job; see `run` for the options.

    Returns:
        The manifest of the run.
    """
    from visprobe.training.run import run

    base, rows = _opened(job, output_dir, options)
    return run(base, job.recipe, rows, output_dir, origins=job.origins, **options)


def dry_run_job(job: Job, output_dir: Path, **options: Unpack[RunOptions]) -> Plan:
    """Plan a job without training; see `dry_run`. A new model is put together for it, and reused by the run."""
    from visprobe.training.run import dry_run

    base, rows = _opened(job, output_dir, options)
    return dry_run(base, job.recipe, rows, output_dir, **options)


def _opened(job: Job, output_dir: Path, options: RunOptions) -> tuple[Path, Rows]:
    """Return the folder that a job starts from, and its rows."""
    overwrite = options.get("overwrite", False)
    rows = open_job_rows(job.sources, job.recipe, output_dir, overwrite=overwrite)
    return start(job.sources, job.recipe.seed, output_dir, overwrite=overwrite), rows


def start(sources: Sources, seed: int, output_dir: Path, *, overwrite: bool = False) -> Path:
    """Return the checkpoint folder to start from: the base, or a new model put together beside the output folder.

    Raises:
        UsageError: If the folder of the new model holds something else.
    """
    if sources.base is not None:
        return _local(sources.base)
    from visprobe.mllm.language import read_template
    from visprobe.training.models.assemble import assemble

    folder = output_dir.parent / f"{output_dir.name}-start"
    tower, language_model = sources.vision_tower, sources.language_model
    assert tower is not None and language_model is not None  # make_job has checked it
    how: dict[str, Any] = {"seed": seed, "image_size": sources.image_size, "feature_layer": sources.feature_layer}
    template = sources.chat_template
    made_of = {
        **how,
        "vision_tower": _identity(tower),
        "language_model": _identity(language_model),
        "chat_template": read_template(template) if template else None,
    }
    _save_once(folder, made_of, lambda: assemble(tower, language_model, chat_template=template, **how), overwrite)
    return folder


def _identity(model: str) -> str:
    """Return the hash of a model's weights, or its hub id, so that its path does not matter."""
    return weights_hash(Path(model)) if Path(model).is_dir() else model


def _save_once(
    folder: Path, made_of: dict[str, Any], make: Callable[[], tuple[Any, Any]], overwrite: bool = False
) -> None:
    """Save the model and processor that `make` returns, unless `folder` holds the same; one process writes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    note = folder / MADE_OF
    with locked(folder.parent / f".{folder.name}.lock", f"puts {folder} together"):
        there = json.loads(note.read_text()) if note.is_file() else {}
        if there == made_of:
            return
        _refuse_other_start(folder, [key for key in made_of if there and there.get(key) != made_of[key]], overwrite)
        model, processor = make()
        with replacing(folder) as temporary:
            model.save_pretrained(temporary)
            processor.save_pretrained(temporary)
            write_json(temporary / MADE_OF, made_of)


def _refuse_other_start(folder: Path, differ: Sequence[str], overwrite: bool) -> None:
    """Refuse to write a new model over anything but a model that may be overwritten."""
    names = visible_names(folder)
    if names and overwrite:
        refuse_unknown(folder)
    elif names:
        what = f"a new model made of something else ({', '.join(differ)})" if differ else listed(names)
        raise UsageError(
            f"{folder}, where the model to start from is put together, holds {what}",
            hint=way_out(folder),
        )


def _local(base: str) -> Path:
    """Return the folder of a checkpoint, downloading it from the hub ("org/name", "org/name@revision") if need be."""
    if os.path.exists(base) or base.count("/") != 1 or base.startswith((".", "/", "~")):
        return Path(base)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = base.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"there is no folder {base}, and it cannot be fetched from the hub: {str(error).splitlines()[0][:200]}",
            hint="Check the path or the id; a private model needs `hf auth login`.",
        ) from error


def run_pivot(
    tower_from: str,
    language_model: str,
    projector_config: Path,
    full_config: Path,
    output_dir: Path,
    *,
    reuse_projector_layers: int = 0,
    seed: int = 0,
    **options: Unpack[RunOptions],
) -> dict[str, dict[str, Any]]:
    """Transplant a post-trained tower, train the projector, then run the second recipe (PIVOT's evaluation).

    Args:
        tower_from: Checkpoint whose vision tower is taken.
        language_model: Folder or hub id of the new language model.
        projector_config: Recipe file of the projector stage.
        full_config: Recipe file of the stage after it.
        output_dir: Gets the folders start, projector and full.
        reuse_projector_layers: Number of projector layers to keep, from the first on.
        seed: Seed of the fresh projector.
        options: Options of `run`.

    Returns:
        The manifests by stage.

    Raises:
        UsageError: If a folder holds anything but its run or the model to start from.

    Source:
        "RL makes MLLMs see better than SFT" (2510.16333), section 6.
    """
    from visprobe.training.models.pivot import transplant

    # Read both recipes first, so that a fault in the second does not wait for the first run to end.
    names = {"projector": output_dir / "start", "full": output_dir / "projector"}
    configs = {"projector": projector_config, "full": full_config}
    jobs = {stage: make_job(stage, configs[stage], {"base": str(base)}) for stage, base in names.items()}
    how: dict[str, Any] = {"reuse_projector_layers": reuse_projector_layers, "seed": seed}
    made_of = {**how, "tower_from": _identity(tower_from), "language_model": _identity(language_model)}
    overwrite = options.get("overwrite", False)
    _save_once(names["projector"], made_of, lambda: transplant(tower_from, language_model, **how), overwrite)
    return {stage: run_job(job, output_dir / stage, **options) for stage, job in jobs.items()}
