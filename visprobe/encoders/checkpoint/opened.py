"""Opened checkpoints: small files, and tensors by name of which nothing is read yet."""

from __future__ import annotations

import copy
import os
import shutil
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from transformers import AutoConfig

from visprobe.encoders.checkpoint import adapter
from visprobe.encoders.checkpoint.adapter import with_own_adapter
from visprobe.encoders.checkpoint.mmproj import mmproj_file, open_mmproj
from visprobe.encoders.checkpoint.quantised import check_whole
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.checkpoint.tensor_names import ModuleNames, of_language_model, unwrapped
from visprobe.errors import CheckpointError
from visprobe.io.atomic import write_json
from visprobe.io.containers.folder import Folder, LocalFolder
from visprobe.io.containers.kinds import open_tensors
from visprobe.io.containers.safetensors_files import SafetensorsFiles
from visprobe.io.containers.tensors import Joined, Tensors
from visprobe.io.hub.repository import open_folder
from visprobe.io.regular import DAMAGED, INDEX, read_object

_NAME_BASE = f"Put the base model's folder, or its hub id, into base_model_name_or_path of {adapter.CONFIG}."
_MOST_LABELS = 100_000  # the largest set of classes in use, the whole ImageNet, has 21,843
# A directory of checkpoints holds one configuration many times, and each takes transformers 20 ms.
_PARSED: dict[bytes, Any] = {}


@dataclass(frozen=True)
class Checkpoint:
    """Opened checkpoint.

    Attributes:
        spec: Folder, file or hub id as the user gave it.
        folder: Folder of its small files (`*.json`).
        tensors: Tensors by name, read on demand.
        notes: Warnings for the reader about how it was opened.
        config_file: Name of its configuration in that folder.
        commit: Commit that was read, for a checkpoint of the hub.
        base: Base model, for an adapter.
    """

    spec: str
    folder: Path
    tensors: Tensors
    notes: list[str] = field(default_factory=list)
    config_file: str = "config.json"
    commit: str = ""
    base: str = ""

    @cached_property
    def raw(self) -> dict[str, Any]:
        """Configuration as stored.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        return read_config(self.folder, self.config_file)

    @cached_property
    def config(self) -> Any:
        """Configuration of transformers.

        Raises:
            CheckpointError: If transformers cannot read it.
        """
        return library_config(self.folder, self.config_file)

    def check_whole(self, names: Iterable[str]) -> None:
        """Check that the tensors `names` are not quantised.

        Raises:
            CheckpointError: If they are.
        """
        check_whole(self.spec, self.base, self.raw, [self.tensors[name] for name in names])

    def check_described(self, kind: str = "") -> None:
        """Check that the configuration describes the tower; if not, transformers would assume another one.

        Args:
            kind: Kind of the checkpoint, for the message.

        Raises:
            CheckpointError: If `vision_config` is missing, null or a name.
        """
        vision = self.raw.get("vision_config")
        if isinstance(vision, dict):
            return
        said = f", only the name {vision!r}" if isinstance(vision, str) else ""
        what = f" of {kind}" if kind else ""
        raise CheckpointError(
            f"{self.folder / self.config_file}{what} has no vision_config{said}: nothing says how its tower is built",
            hint="Copy vision_config, whole, from the config.json of the base model into this one.",
        )


def open_checkpoint(spec: str | Path) -> Checkpoint:
    """Open the checkpoint `spec`: a folder, a LoRA adapter's folder, a hub id of either, or llama.cpp's mmproj file.

    Raises:
        CheckpointError: If there is none, or it is damaged, or the base model of an adapter cannot be found.
    """
    return _opened(str(spec), ())


def _opened(spec: str, adapters: tuple[str, ...]) -> Checkpoint:
    path = Path(spec).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _from_llama_cpp(spec, LocalFolder(path.parent), path.name)
    folder = open_folder(spec)
    names, commit = folder.names(), folder.commit
    if file := mmproj_file(folder):
        return _from_llama_cpp(spec, folder, file)
    if adapter.CONFIG in names and any(name in names for name in adapter.WEIGHTS):
        own = str(folder.path.resolve())
        if own in adapters:
            raise CheckpointError(f"{spec} is an adapter whose base model leads back to itself", hint=_NAME_BASE)
        return _adapted(spec, folder, (*adapters, own))
    if is_extracted(names):
        return Checkpoint(spec, folder.path, restored(folder, open_tensors(folder)), [], MLLM_CONFIG, commit)
    return Checkpoint(spec, folder.path, _own_tensors(folder), commit=commit)


def _from_llama_cpp(spec: str, folder: Folder, file: str) -> Checkpoint:
    config, processor, tensors = open_mmproj(folder, file)
    described = Path(mkdtemp(prefix="visprobe-"))
    for name, fields in (("config.json", config), ("preprocessor_config.json", processor)):
        write_json(described / name, fields)
    notes = [f"read from llama.cpp's {file}, with the processor and the configuration that it describes"]
    weakref.finalize(tensors, shutil.rmtree, described, ignore_errors=True)
    return Checkpoint(spec, described, tensors, notes)


def _own_tensors(folder: Folder) -> Tensors:
    return with_own_adapter(folder, unwrapped(open_tensors(folder)))


def _adapted(spec: str, folder: Folder, adapters: tuple[str, ...]) -> Checkpoint:
    base = _base(folder, adapters)
    try:
        tensors = adapter.adapted(folder, base.tensors, _module_names(base))
    except CheckpointError:
        names = [name for name in base.tensors if not of_language_model(name)]
        replace(base, spec=spec, base=base.spec).check_whole(names)
        raise  # quantised weights are not the cause
    described = "config.json" in folder.names() and not (base.folder / "preprocessor_config.json").is_file()
    notes = [*base.notes, f"{spec} is an adapter of the base model {base.spec}"]
    if described:
        return Checkpoint(spec, folder.path, tensors, notes, base=base.spec)
    return replace(base, spec=spec, tensors=tensors, notes=notes, base=base.spec)


def _module_names(checkpoint: Checkpoint) -> ModuleNames:
    """Return the names of a checkpoint's tensors, as far as transformers knows its classes."""
    from visprobe.encoders.families import MODEL_OF, TOWER_OF  # families import this module
    from visprobe.encoders.layouts.original_towers import original_tower

    if named := checkpoint.raw.get("mm_vision_tower"):
        return ModuleNames(checkpoint.tensors, [original_tower(str(named)).config])
    kind = str(checkpoint.raw.get("model_type"))
    if kind not in MODEL_OF and kind not in TOWER_OF:
        return ModuleNames(checkpoint.tensors)
    config, model = checkpoint.config, MODEL_OF.get(kind)
    tower = getattr(config, "vision_config", None)

    def today(name: str) -> str:
        return next(iter(model.renamed({name: name}, tower))) if model else name

    return ModuleNames(checkpoint.tensors, [one for one in (config, tower) if one is not None], today)


def _base(folder: Folder, adapters: tuple[str, ...]) -> Checkpoint:
    """Open the base model that an adapter names, or else the model in the same folder or in its parent."""
    config = adapter.adapter_config(folder)
    named, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    try:
        if "\0" in named:  # functions of the system raise ValueError on it
            raise CheckpointError("no path and no hub id holds a NUL character", hint=_NAME_BASE)
        for place in _places(folder.path, named):
            if str(place.resolve()) in adapters and _holds_model(place):
                return Checkpoint(str(place), place, _own_tensors(LocalFolder(place)))
            return _opened(str(place), adapters)
        return _opened(f"{named}@{revision}" if revision else named, adapters)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} is an adapter of the base model {named!r}, which cannot be opened: {error.message}",
            hint=_NAME_BASE,
        ) from error


def _places(own: Path, named: str) -> list[Path]:
    """Return folders on this machine that the adapter in `own` may mean by `named`, the likeliest first."""
    # the adapter's own place comes before the current folder, where another model may have that name
    if named:
        # not Path's is_dir: it raises for names that no folder can have
        return [path for path in (own / named, Path(os.path.expanduser(named))) if os.path.isdir(path)]
    return [path for path in (own, own.resolve().parent) if _holds_model(path)]


def _holds_model(path: Path) -> bool:
    names = LocalFolder(path).names() if (path / "config.json").is_file() else []
    return any(name.startswith(("model", "pytorch_model")) and "." in name and "/" not in name for name in names)


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Load the configuration in file `name` of `folder`.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    if not (folder / name).exists():
        raise CheckpointError(f"{folder} has no {name}", hint=_missing_config(folder))
    return read_object(folder / name)


def library_config(folder: Path, name: str = "config.json") -> Any:
    """Load the configuration in file `name` of `folder` with transformers.

    Raises:
        CheckpointError: If the file is missing or damaged, or transformers cannot read it.
    """
    check_labels(read_config(folder, name), folder / name)
    try:
        return copy.deepcopy(_parsed(folder / name))
    except Exception as error:  # transformers raises many types on a configuration it cannot build
        raise CheckpointError(
            f"transformers cannot read {folder / name}: {error}".splitlines()[0],
            hint="Check the configuration, or use the version of transformers that wrote it.",
        ) from error


def check_labels(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration of more classes than any model has: transformers would spend hours on their names.

    Raises:
        CheckpointError: If `num_labels` is too large anywhere in it.
    """
    count = config.get("num_labels")
    if isinstance(count, int | float) and count > _MOST_LABELS:
        raise CheckpointError(f"{path} says num_labels {count:,}", hint="Take that line out: no tower has classes.")
    for part in config.values():
        if isinstance(part, dict):
            check_labels(part, path)


def _parsed(path: Path) -> Any:
    content = path.read_bytes()
    if content not in _PARSED:
        with quiet():
            _PARSED[content] = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return _PARSED[content]


def _missing_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return f"This is a LoRA adapter without its {adapter.WEIGHTS[0]}: copy it again, as a whole."
    return (
        "Give the folder that holds config.json and the weights, or copy config.json and preprocessor_config.json of "
        "the base model beside these."
    )


MLLM_CONFIG = "mllm_config.json"
PROJECTOR = "projector.safetensors"
NAMES = "tower_names.json"


def is_extracted(names: list[str]) -> bool:
    """Return whether a folder with files `names` holds a tower and the projector it was extracted with."""
    return {MLLM_CONFIG, PROJECTOR, NAMES} <= set(names)


def restored(folder: Folder, tower: Tensors) -> Tensors:
    """Return the tensors of the projector and of `tower` by their names in the multimodal checkpoint.

    Raises:
        CheckpointError: If the list of names is damaged, or names a tensor that is not there.
    """
    path = folder.fetch(NAMES)
    names = {key: str(name) for key, name in read_object(path, INDEX).items()}
    if absent := sorted(set(names.values()) - set(tower)):
        raise CheckpointError(f"{path} names {absent[0]!r}, which the tower does not hold", hint=DAMAGED)
    return Joined(SafetensorsFiles(folder, PROJECTOR), tower, names)
