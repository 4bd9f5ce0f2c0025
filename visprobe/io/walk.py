"""Search of a directory tree for folders that hold a model, readable or not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from visprobe.errors import CheckpointError
from visprobe.io.containers.deepspeed import is_model_states
from visprobe.io.containers.distcp import METADATA
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.formats import is_trainer_state, known_formats
from visprobe.io.containers.kinds import MODEL_FILES, open_file
from visprobe.io.regular import INDEX, read_object

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".distcp", ".gguf")
_OPENED = (".safetensors", ".bin", ".pt", ".pth")
_MOST = 4  # files opened per folder, which may hold thousands of tensors that are data
_CONFIGS = {"config.json", "adapter_config.json"}
# Folders that belong to the checkpoint around them, if there is one.
_INNER = ("global_step", "pytorch_model_fsdp_", "distributed_checkpoint")
_RESUMED_FROM = "inputs.json"  # lies beside the checkpoints that a training run of visprobe resumes from
_NO_MODELS = ("optimizer", "datasets--", "spaces--")  # states of FSDP's optimisers; other repositories of the hub


def model_folders(root: Path) -> Iterator[Path]:
    """Yield folders below `root`, or `root` itself, with the weights of a model; links are followed, each place once.

    A folder with a configuration and weights counts; so does one without a configuration whose files are weights by
    their names, or by the names of the tensors in them. Folders that belong to a checkpoint (its shards, copies in
    other formats, states that its training resumes from) are left out. Folders that may not be read come last.
    """
    unreadable: list[Path] = []
    seen: set[str] = set()
    found: set[Path] = set()
    claimed: set[Path] = set()
    for place, inner, files in os.walk(
        root, followlinks=True, onerror=lambda error: unreadable.append(Path(error.filename))
    ):
        if (real := os.path.realpath(place)) in seen:
            inner.clear()
            continue
        seen.add(real)
        described = bool(_CONFIGS & set(files))
        folder, own = Path(place), {name for name in inner if name.startswith(_INNER)}
        left_out = own | {name for name in inner if (folder / name / _RESUMED_FROM).is_file()} if described else set()
        inner[:] = sorted(name for name in inner if _may_hold_models(name) and name not in left_out)
        claimed |= _shard_folders(folder, files) if inner else set()
        if described and (own or any(name.endswith(_WEIGHTS) for name in files)):
            found.add(folder)
            yield folder
        elif folder in claimed or _converted(folder, inner):
            continue
        elif _is_model(files) or (found.isdisjoint(folder.parents) and _any_weights(folder, files)):
            yield folder
    yield from unreadable


def _may_hold_models(name: str) -> bool:
    return not name.startswith((".", *_NO_MODELS))


def _shard_folders(folder: Path, files: Iterable[str]) -> set[Path]:
    """Return folders in `folder` whose files are shards of its checkpoint."""
    shards: set[str] = set()
    for index in (name for name in files if name in MODEL_FILES and name.endswith(".index.json")):
        try:
            weight_map = read_object(folder / index, INDEX).get("weight_map")
        except CheckpointError:
            continue  # raised again, with its reason, when the checkpoint is read
        shards |= {str(shard) for shard in weight_map.values()} if isinstance(weight_map, dict) else set()
    return {folder / shard.rpartition("/")[0] for shard in shards if "/" in shard}


def _is_model(files: Sequence[str]) -> bool:
    """Return whether a folder with `files` holds a model, by their names alone."""
    if METADATA in files or any(known.alone for known, _ in known_formats(files)):
        return True
    vision = (file.endswith(".gguf") and "mmproj" in file.lower() for file in files)
    return any(vision) or any(file in MODEL_FILES or is_model_states(file) for file in files)


def _any_weights(folder: Path, files: Iterable[str]) -> bool:
    """Return whether files of any name hold the weights of a model."""
    others = sorted(name for name in files if name.endswith(_OPENED) and not is_trainer_state(name))
    return any(name.endswith(".gguf") for name in files) or any(
        _holds_state_dict(folder, name) for name in others[:_MOST]
    )


def _holds_state_dict(folder: Path, file: str) -> bool:
    """Return whether `file` has the weights of a model, by the names of its tensors."""
    try:
        return any(name.endswith(".weight") for name in open_file(LocalFolder(folder), file))
    except (CheckpointError, OSError):
        return False


def _converted(folder: Path, inner: Iterable[str]) -> bool:
    """Return whether the shards in `folder` were merged into a folder in it, which is read instead."""
    return any((folder / name / "config.json").is_file() and _any_model_file(folder / name) for name in inner)


def _any_model_file(folder: Path) -> bool:
    return any((folder / file).is_file() for file in MODEL_FILES)
