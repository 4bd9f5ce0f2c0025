"""Training runs, from a base and rows to a checkpoint folder with its manifest.

During the run the folder holds checkpoints/ (to resume from), metrics.jsonl and snapshots/; at its end the model, its
processor and, last of all, manifest.json. A folder with a manifest is finished. What the folder may hold before is
checked in `visprobe.training.run_folder.folder`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from visprobe.data.progress import Progress

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # trl reports each trainer's start unless told not to

import torch
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.integrations import get_available_reporting_integrations

from visprobe.data.allowed_bad import allowed_bad
from visprobe.data.rows import Rows
from visprobe.errors import TrainingError, UsageError
from visprobe.io.disk import is_disk_full, translate_os_error
from visprobe.io.redact import redacted
from visprobe.mllm.conversation import Conversations
from visprobe.mllm.load import model_for_training, processor_for_training
from visprobe.mllm.parts import blocks_to_shard, train_only
from visprobe.training.callbacks import Snapshots, Watch, read_metrics
from visprobe.training.dynamics import Probe
from visprobe.training.launch import launch_note
from visprobe.training.models.lora import add_adapters, merge
from visprobe.training.on_paper import Plan, plan, seen, steps_of
from visprobe.training.recipe import Recipe
from visprobe.training.rows.check import (
    MAX_BAD,
    Survey,
    conversations,
    in_manifest,
    look_through,
    notes,
    refuse_bad,
)
from visprobe.training.rows.usable import UsableRows
from visprobe.training.run_folder.by_step import CHECKPOINTS
from visprobe.training.run_folder.folder import claim, finish, inputs_of, refuse_folder, start_of, visible_names
from visprobe.training.run_folder.manifest import Clock, environment
from visprobe.training.stages import TrainerInputs, stage_of
from visprobe.training.trainers.common import resolved_precision, warmup_steps

CallbackFactory = Callable[[Recipe, Path, UsableRows, Any, Path], TrainerCallback | None]
"""From recipe, base, rows, processor and the run's folder to what happens beside the steps, if anything does."""


class RunOptions(TypedDict, total=False):
    """Options of a run that are not part of its recipe.

    Attributes:
        progress: Called with (stage, step, steps).
        note: Called before the first step, with a sentence on each thing in the rows that is not used.
        callbacks: Factories of callbacks; one must draw the maps of `attribution_every`, which need a higher layer.
        max_bad: Most unusable rows, as a number ("20") or a share ("1%").
        overwrite: Whether to remove another run or model from the folder when this one begins to train.
    """

    progress: Progress | None
    note: Callable[[str], None] | None
    callbacks: Sequence[CallbackFactory]
    max_bad: str
    overwrite: bool


def run(
    base: Path,
    recipe: Recipe,
    rows: Rows,
    output_dir: Path,
    *,
    origins: Mapping[str, str] | None = None,
    **options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Train a branch of `base` and save it as a folder that transformers loads.

    A finished run of the same base, rows and recipe is not repeated. A stopped run goes on from its last complete
    checkpoint, and so does one that gets more steps or epochs than before.

    Args:
        base: Checkpoint folder to start from.
        recipe: Settings of the run.
        rows: The training rows.
        output_dir: The run's folder.
        origins: Origin of each setting that is not a default, for the manifest.
        options: See `RunOptions`.

    Returns:
        The manifest, also written to `output_dir/manifest.json`; with "reused" if nothing had to be done.

    Raises:
        UsageError: If the folder holds anything but this run, too many rows are unusable, or the recipe does not suit
            base or rows.
        CheckpointError: If `base` cannot be loaded.
        TrainingError: If the loss is not finite, or a part that should train gets no gradient.
    """
    _refuse(base, recipe, output_dir, options)
    inputs = inputs_of(base, recipe, rows)
    start = start_of(output_dir, inputs, overwrite=options.get("overwrite", False))
    if start.manifest is not None:
        return {**start.manifest, "reused": True}
    clock, progress = Clock(), options.get("progress")
    with _quiet():
        set_seed(recipe.seed)
        processor, told, found = _get_ready(base, recipe, rows, options)
        fitted = UsableRows(rows, stage_of(recipe).need, found.usable)
        model = model_for_training(base)
        off_path = train_only(model, recipe.train)
        model._no_split_modules = blocks_to_shard(model)  # FSDP wraps these unless its configuration names others
        checkpoint = start.checkpoint
        watch = Watch(recipe, output_dir, progress)
        probe = Probe(recipe, base, output_dir, processor) if recipe.probe_every else None
        with _readable_failure(recipe, output_dir):
            trainer = _trainer(model, processor, recipe, fitted, output_dir, watch, progress)
        made = [make(recipe, base, fitted, processor, output_dir) for make in options.get("callbacks", ())]
        for callback in filter(None, [probe, *made]):
            trainer.add_callback(callback)
        trainer.accelerator.wait_for_everyone()  # every process has read the folder, which `claim` is about to change
        if trainer.is_world_process_zero():
            claim(output_dir, inputs, start)
        with _readable_failure(recipe, output_dir):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.accelerator.wait_for_everyone()  # for the last metrics of the first process
        about = {
            "inputs": inputs,
            "base": str(base),
            "origins": dict(origins or {}),
            "rows": {"name": rows.name, "count": len(rows), "used": len(fitted), **in_manifest(found)},
            "off_path": off_path,
            "end_of_turn": told.end_of_turn,
            "without_gradient": watch.without_gradient,
            "resumed_from": checkpoint.name if checkpoint else None,
            "extended_from": list(start.extended_from),
            **_done(trainer, recipe, len(fitted), read_metrics(output_dir)),
            "launch_note": launch_note(),
            "precision": resolved_precision(recipe.precision),
            "environment": environment(),
            **clock.read(),
        }
        manifest: dict[str, Any] = redacted(about)
        with _readable_failure(recipe, output_dir):
            _save(trainer, processor, output_dir, manifest)
        trainer.accelerator.wait_for_everyone()
    return manifest


def _done(trainer: Any, recipe: Recipe, rows: int, metrics: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    processes = trainer.accelerator.num_processes
    return {
        "losses": [line["loss"] for line in metrics],
        **_rewards(metrics),
        "seen": seen(recipe, trainer.state.global_step, rows, processes),
        "trained": sorted(name for name, p in trainer.model.named_parameters() if p.requires_grad),
        "processes": processes,
    }


def dry_run(base: Path, recipe: Recipe, rows: Rows, output_dir: Path, **options: Unpack[RunOptions]) -> Plan:
    """Check all that `run` checks before it trains, and plan what it would train; nothing is written.

    Raises:
        UsageError: If the folder, the recipe or too many rows do not allow the run.
        CheckpointError: If `base` cannot be loaded.
        TrainingError: If the learning rate is 0.
    """
    _refuse(base, recipe, output_dir, options)
    if visible_names(output_dir):
        start_of(output_dir, inputs_of(base, recipe, rows), overwrite=options.get("overwrite", False))
    with _quiet():
        _, _, found = _get_ready(base, recipe, rows, options)
        return plan(model_for_training(base, on_paper=True), recipe, found, rows.name)


def _get_ready(base: Path, recipe: Recipe, rows: Rows, options: RunOptions) -> tuple[Any, Conversations, Survey]:
    """Read the processor and survey all rows; refuse too many bad ones."""
    processor, config = processor_for_training(base, recipe.resample)
    told = conversations(processor, config, recipe)
    found = look_through(rows, recipe, told, options.get("progress"))
    refuse_bad(found, rows.name, recipe.stage, options.get("max_bad", MAX_BAD))
    if note := options.get("note"):
        for line in notes(found, told, rows.name):
            note(line)
    return processor, told, found


def _refuse(base: Path, recipe: Recipe, output_dir: Path, options: RunOptions) -> None:
    """Refuse settings that are known to be wrong before anything is read."""
    allowed_bad(options.get("max_bad", MAX_BAD), total=0)  # refuses a malformed number before the long survey
    refuse_folder(base, output_dir)
    stage_of(recipe).check(recipe)
    available = get_available_reporting_integrations()
    if missing := [name for name in recipe.report_to if name not in available]:
        raise UsageError(
            f"report_to: {', '.join(missing)} does not exist or is not installed",
            hint=f"Here there is {', '.join(sorted(available)) or 'none'}; metrics.jsonl is always written.",
        )
    if recipe.attribution_every and not options.get("callbacks"):  # figures come from a higher layer
        raise UsageError(
            "attribution_every: nobody is there to draw maps",
            hint="Start visprobe train, or give run() the `attribution_callback` of "
            "visprobe.pipelines.attribution.during_training.",
        )
    if not any((recipe.learning_rate, *recipe.part_learning_rates.values())):
        raise TrainingError("the learning rate is 0: nothing would be learned", hint="Give --learning-rate.")


def _rewards(lines: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the mean reward and the share of answers in groups of equal rewards; empty without rewards."""
    told = [line for line in lines if "reward" in line]
    if not told:
        return {}
    mean, alike = (sum(line[key] for line in told) / len(told) for key in ("reward", "frac_reward_zero_std"))
    return {"reward": {"mean": mean, "groups_alike": alike}}


def _trainer(
    model: Any,
    processor: Any,
    recipe: Recipe,
    rows: UsableRows,
    output_dir: Path,
    watch: Watch,
    progress: Progress | None,
) -> Any:
    callbacks: list[Any] = [watch]
    if recipe.snapshot_tower_every:
        callbacks.append(Snapshots(recipe.snapshot_tower_every, output_dir, processor))
    stage = stage_of(recipe)
    inputs = TrainerInputs(model, processor, recipe, rows, str(output_dir / CHECKPOINTS), callbacks, progress)
    prepared = stage.prepare(inputs)
    if recipe.lora is not None:
        add_adapters(model, recipe.lora)
    trainer = stage.trainer(inputs, prepared)
    trainer.args.warmup_steps = warmup_steps(recipe, steps_of(recipe, len(rows), trainer.args.world_size))
    trainer.remove_callback(PrinterCallback)  # it prints every log to stdout, which is for results
    return trainer


def _save(trainer: Any, processor: Any, output_dir: Path, manifest: dict[str, Any]) -> None:
    scratch = output_dir / CHECKPOINTS / "final"
    merge(trainer.model)  # adapters, so that the checkpoint is an ordinary one
    trainer.save_model(str(scratch))  # in every process: gathering sharded weights is collective
    if not trainer.is_world_process_zero():
        return
    processor.save_pretrained(scratch)
    (scratch / "training_args.bin").unlink(missing_ok=True)
    for file in sorted(scratch.iterdir()):
        os.replace(file, output_dir / file.name)
    finish(output_dir, manifest)


@contextlib.contextmanager
def _readable_failure(recipe: Recipe, output_dir: Path) -> Iterator[None]:
    """Turn out-of-memory and disk errors into errors with advice."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"out of memory on the GPU with batch_size {recipe.batch_size}: {str(error).splitlines()[0]}",
            hint=f"Try batch_size {max(1, recipe.batch_size // 2)} with gradient_accumulation "
            f"{recipe.gradient_accumulation * 2}, then gradient_checkpointing.",
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        # OSErrors that the libraries raise themselves have no errno, and are not about the disk.
        if is_disk_full(error) or (isinstance(error, OSError) and error.errno is not None):
            raise translate_os_error(error, output_dir if is_disk_full(error) else "") from error
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries' progress bars, notes and step logs, but not their errors."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    logging.getLogger("trl").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
