"""Checks of output folders: whether a run may begin there, resume or extend; nothing is overwritten unasked.

All is decided before a model is loaded; files are removed only when the new run is about to train.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from visprobe.data.rows import Rows
from visprobe.errors import CheckpointError, UsageError
from visprobe.io.atomic import write_json
from visprobe.io.redact import redacted
from visprobe.io.regular import read_object
from visprobe.training.launch import process_count
from visprobe.training.recipe import Recipe, own_settings
from visprobe.training.run_folder.by_step import ATTRIBUTION, CHECKPOINTS, COMPLETE, DYNAMICS, METRICS, SNAPSHOTS
from visprobe.training.run_folder.manifest import NAME, settings_hash, weights_hash

_BEGUN = "inputs.json"  # in checkpoints/: the inputs of the run they belong to
_LOGS = (".log", ".out", ".err")
_OWN_FOLDERS = {CHECKPOINTS, SNAPSHOTS, ATTRIBUTION, "additional_chat_templates"}
# Files of runs and of models, by patterns because every model family has other names.
_OWN_FILES = (
    *(METRICS, DYNAMICS, f"{ATTRIBUTION}.jsonl", f"{ATTRIBUTION}.npz", NAME, "made_of.json", "trainer_state.json"),
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.index.json", "*_results.json"),
    *("*config*.json", "*token*.json", "*.model", "vocab.*", "merges.txt", "chat_template.*", "*.jinja", "README.md"),
)
_MODEL = "config.json"


@dataclass(frozen=True)
class Start:
    """State from which a run begins in its folder.

    Attributes:
        manifest: Manifest of the run if it is finished and there is nothing to do.
        checkpoint: Checkpoint to resume from; None at a new start.
        extended_from: Earlier plans of the run, in steps, or epochs if it goes by them; earliest first.
        clear: Whether another run or model in the folder has to be removed.
    """

    manifest: dict[str, Any] | None = None
    checkpoint: Path | None = None
    extended_from: tuple[float, ...] = ()
    clear: bool = False


@dataclass(frozen=True)
class _Held:
    """Run found in a folder: its inputs, and its manifest or newest complete checkpoint, if it has them."""

    inputs: dict[str, Any]
    manifest: dict[str, Any] | None
    checkpoint: Path | None
    processes: int | None
    extended_from: tuple[float, ...]

    @property
    def name(self) -> str:
        """Kind of run, for messages."""
        return f"a {'finished' if self.manifest else 'stopped'} {self.inputs['recipe'].get('stage', 'training')} run"


def inputs_of(base: Path, recipe: Recipe, rows: Rows) -> dict[str, Any]:
    """Return the inputs that identify a run: hashes of base and rows, and the recipe."""
    return {
        "base": weights_hash(base),
        "base_settings": settings_hash(base),
        "rows": rows.content_hash(),
        "recipe": _settings(recipe),
    }


def start_of(output_dir: Path, inputs: Mapping[str, Any], *, overwrite: bool) -> Start:
    """Decide how a run of `inputs` begins in a folder.

    Args:
        output_dir: Output folder, which may not exist.
        inputs: Result of `inputs_of`.
        overwrite: Whether another run or model there may be removed.

    Raises:
        UsageError: If the folder holds anything but this run, finished, stopped, or planned with fewer steps; with
            `overwrite`, if it holds something that is neither run nor model.
    """
    if not visible_names(output_dir):
        return Start()
    held = _held(output_dir)
    if held is not None:
        same, earlier = not _differences(held.inputs, inputs), _earlier(held.inputs, inputs)
        if same and (held.manifest or not held.checkpoint):
            return Start(held.manifest)
        if (same or earlier) and held.checkpoint and held.processes == process_count():
            return Start(None, held.checkpoint, (*held.extended_from, *([earlier] if earlier else [])))
    if not overwrite:
        raise _refusal(output_dir, held, inputs)
    refuse_unknown(output_dir)
    return Start(clear=True)


def claim(output_dir: Path, inputs: Mapping[str, Any], start: Start) -> None:
    """Take over the folder for the run that is about to train; called in one process, after all have called `start_of`.

    Killed at any moment, it can be repeated by the same command.
    """
    begun = output_dir / CHECKPOINTS / _BEGUN
    if start.clear:
        write_json(begun, {})  # so a kill from here on leaves a folder of no run that may still be cleared
    (output_dir / NAME).unlink(missing_ok=True)
    if start.clear:
        for path in (output_dir / name for name in visible_names(output_dir) if name != CHECKPOINTS):
            if _is_own(path):  # files that appeared since the folder was checked stay
                _remove(path)
    if start.checkpoint is None:
        _keep(output_dir, None)
    write_json(begun, {**inputs, "processes": process_count(), "extended_from": list(start.extended_from)})


def finish(output_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, last of all; the newest complete checkpoint stays, so that the run can be extended."""
    last = _newest(output_dir)
    _keep(output_dir, last)
    write_json(output_dir / NAME, manifest)
    if last is None:
        shutil.rmtree(output_dir / CHECKPOINTS)


def first_steps(output_dir: Path, recipe: Recipe, *, overwrite: bool) -> int | None:
    """Return the first planned steps of the run in a folder, if `recipe` can be that run or extend it, else None.

    Args:
        output_dir: Output folder, which may not exist.
        recipe: Settings of the run.
        overwrite: Whether a run that cannot be extended may be removed, and so does not count.
    """
    held = _held(output_dir)
    if held is None or recipe.steps is None:
        return None
    here = {**held.inputs, "recipe": _settings(recipe)}
    same, earlier = not _changed(held.inputs["recipe"], here["recipe"]), _earlier(held.inputs, here)
    if not same and not (earlier and (held.checkpoint or not overwrite)):
        return None
    return int((*held.extended_from, earlier or recipe.steps)[0])


def refuse_folder(base: Path, output_dir: Path) -> None:
    """Refuse an output folder that cannot be used.

    Raises:
        UsageError: If it is or contains the base, or a file is in its path.
    """
    if output_dir.resolve() == base.resolve():
        raise UsageError(f"the output folder {output_dir} is that of the base", hint="Give another output folder.")
    if base.resolve().is_relative_to(output_dir.resolve()):
        raise UsageError(f"the base {base} lies in the output folder {output_dir}", hint="Give another output folder.")
    there = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"cannot write to {output_dir}: {there} is no folder", hint="Give another output folder.")


def visible_names(folder: Path) -> list[str]:
    """Return names in a folder without hidden files, logs, and traces of a run that made no step."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    shown = [name for name in names if not name.startswith(".") and not name.endswith(_LOGS)]
    nothing = shown == [CHECKPOINTS] and set(visible_names(folder / CHECKPOINTS)) <= {_BEGUN}
    return [] if nothing else shown


def refuse_unknown(folder: Path) -> None:
    """Refuse to remove a folder's content unless all of it belongs to a run or a model.

    Raises:
        UsageError: If a name does not.
    """
    names = visible_names(folder)
    if not _is_run_or_model(folder):
        raise UsageError(
            f"{folder} holds {listed(names)} and is neither a run nor a model: --overwrite does not remove that",
            hint="Give another output folder, or empty this one.",
        )
    unknown = [name for name in names if not _is_own(folder / name)]
    if unknown:
        raise UsageError(
            f"{folder} holds {listed(unknown)} too, which --overwrite does not remove",
            hint="Move that away, or give another output folder.",
        )


def way_out(folder: Path) -> str:
    """Return advice for a folder that holds something else."""
    if _is_run_or_model(folder):
        return "Give another output folder, or --overwrite to remove what is there."
    return "Give another output folder."


def listed(names: Sequence[str]) -> str:
    """Return the first three names, and the number of further ones, as text."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_run_or_model(folder: Path) -> bool:
    return any(path.is_file() for path in (folder / NAME, folder / _MODEL, folder / CHECKPOINTS / _BEGUN))


def _settings(recipe: Recipe) -> Any:
    return redacted(json.loads(recipe.model_dump_json()))  # redacted like the written recipe it is compared with


def _is_own(path: Path) -> bool:
    if path.is_dir():
        return path.name in _OWN_FOLDERS
    return any(fnmatch(path.name, pattern) for pattern in _OWN_FILES)


def _held(folder: Path) -> _Held | None:
    """Return the run in a folder, if there is one that says what it was made of."""
    manifest, begun = _read(folder / NAME), _read(folder / CHECKPOINTS / _BEGUN)
    beside = {key: begun.pop(key, None) for key in ("processes", "extended_from")}
    begun = _own(begun)
    made_of = _own(manifest.get("inputs"))
    inputs = made_of or begun
    if not inputs:
        return None
    about = manifest if made_of else beside
    return _Held(
        inputs=inputs,
        manifest=manifest if made_of else None,
        checkpoint=_newest(folder) if begun == inputs else None,
        processes=about.get("processes"),
        extended_from=tuple(about.get("extended_from") or ()),
    )


def _own(inputs: Any) -> dict[str, Any]:
    """Return inputs with only the settings of their own stage; empty if they are not inputs of a run."""
    if not isinstance(inputs, dict) or not isinstance(inputs.get("recipe"), dict):
        return {}
    return {**inputs, "recipe": own_settings(inputs["recipe"])}


def _read(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; empty if it is missing or unreadable."""
    try:
        return read_object(path)
    except CheckpointError:
        return {}


def _newest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a run's folder."""
    marks = (folder / CHECKPOINTS).glob(f"checkpoint-*/{COMPLETE}")
    named = [(re.fullmatch(r"checkpoint-(\d+)", mark.parent.name), mark.parent) for mark in marks]
    return max(((int(name[1]), path) for name, path in named if name), default=(0, None))[1]


def _keep(folder: Path, checkpoint: Path | None) -> None:
    """Remove from checkpoints/ everything but `checkpoint` and the run's inputs."""
    for path in (folder / CHECKPOINTS).glob("*"):
        if path.name != _BEGUN and path != checkpoint:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """List how the inputs of two runs differ, in words."""
    found = []
    if there.get("base") != here["base"]:
        found.append("another base")
    elif there.get("base_settings") != here["base_settings"]:
        found.append("another configuration, tokenizer or chat template of the base")
    if there.get("rows") != here["rows"]:
        found.append("other rows")
    one, two = there["recipe"], here["recipe"]
    return found + [
        f"{key} is {_shown(one, key)} there and {_shown(two, key)} here" for key in _changed(one, two)
    ]  # fmt: skip


def _changed(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    return [key for key in {**two, **one} if key not in one or key not in two or one[key] != two[key]]


def _shown(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:  # written by another version
        return "unknown"
    value = settings[key]
    return "not given" if value is None else value if isinstance(value, str) else json.dumps(value)


def _earlier(there: Mapping[str, Any], here: Mapping[str, Any]) -> float | None:
    """Return the steps or epochs of the run `there`, if `here` is the same run with more of them."""
    one, two = there["recipe"], here["recipe"]
    changed = _changed(one, two)
    if len(_differences(there, here)) != 1 or changed not in (["steps"], ["epochs"]):
        return None
    [key] = changed
    if one.get(key) is None or two[key] is None or (key == "epochs" and two["steps"] is not None):
        return None
    earlier: float = one[key]
    return earlier if earlier < two[key] else None


def _refusal(folder: Path, held: _Held | None, inputs: Mapping[str, Any]) -> UsageError:
    """Make the error that says why a folder is not written to."""
    if held is None:
        return UsageError(f"{folder} holds {_not_a_run(folder)}", hint=way_out(folder))
    differences = _differences(held.inputs, inputs)
    if differences and not _earlier(held.inputs, inputs):
        return UsageError(f"{folder} holds {held.name}: {'; '.join(differences)}", hint=way_out(folder))
    if held.checkpoint is None:
        return UsageError(
            f"{folder} holds {held.name}: {differences[0]}, and no checkpoint was kept to go on from",
            hint="Give --overwrite to train it anew; with --save-every N the last checkpoint is kept.",
        )
    return UsageError(
        f"the run in {folder} had {held.processes} processes, this one has {process_count()}",
        hint=f"Start it with {held.processes}, or give --overwrite to begin anew.",
    )


def _not_a_run(folder: Path) -> str:
    names = visible_names(folder)
    if (folder / CHECKPOINTS / _BEGUN).is_file():
        return "a run whose settings cannot be read"
    if _MODEL not in names:
        return f"{listed(names)}, which is no run of visprobe train"
    weights = [name for name in names if name.endswith((".safetensors", ".bin"))]
    torn = f", and a {NAME} that cannot be read" if NAME in names and not _read(folder / NAME) else ""
    return f"another model ({listed([_MODEL, *weights])}) that is no run of visprobe train{torn}"
