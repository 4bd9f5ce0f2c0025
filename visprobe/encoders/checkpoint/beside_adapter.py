"""Weights that were trained whole and saved beside an adapter, under any file name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping

from visprobe.encoders.checkpoint.quantised import is_float
from visprobe.encoders.checkpoint.tensor_names import LORA, ModuleNames, Renamed, of_language_model, plain_name
from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.formats import is_trainer_state
from visprobe.io.containers.kinds import MODEL_FILES, open_file
from visprobe.io.containers.tensors import Tensors
from visprobe.io.containers.torch_files import NoTensors

_WEIGHTS = re.compile(r".+\.(safetensors|bin|pt|pth)(\.index\.json)?")
_SHARD = re.compile(r"-\d+-of-\d+(?=\.\w+$)")
_HEADS = ("v_head.", "value_head.", "score.", "summary.", "classifier.", "reward_head.")
_OTHER_THINGS = ("checkpoint", "global_step", "step", "epoch", "runs", "logs", "wandb")  # prefixes of folders to skip
# Parts of names that a base model of original LLaVA may lack: it is the language model alone, or has a frozen tower.
_TOWER = {"visual", "vision_tower", "vision_model"}
_OTHER_PARTS = {"mm_projector", "vision_resampler", "image_newline"}
_AWAY = "If they are no weights of this model, move the file to another folder."


def beside(
    folder: Folder, own: str, base: Tensors, model: ModuleNames, merged: Collection[str]
) -> list[tuple[str, Tensors]]:
    """Open the files of weights beside the adapter in `folder`, each with its tensors by the base model's names.

    A file counts by the names of its tensors, not by its own, except for files of trainer state.

    Args:
        folder: Folder of the adapter.
        own: File of the adapter itself.
        base: Tensors of the base model.
        model: Names of the base model.
        merged: Tensors of the base model that the adapter changes by LoRA.

    Returns:
        Pairs of file name and tensors.

    Raises:
        CheckpointError: If a file is damaged, or holds weights that do not fit the base model or the adapter.
    """
    found: list[tuple[str, Tensors]] = []
    for file in _files(folder, own, base):
        where = f"{folder}/{file}"
        tensors = _opened(folder, file)
        if tensors is None:
            continue
        weights = _weights(tensors)
        _check_adapter(where, tensors, weights, model, merged)
        if weights:
            found.append((file, Renamed(tensors, _placed(where, weights, tensors, base, model))))
    return found


def other_models(folder: Folder) -> list[str]:
    """Return folders in `folder` that hold a model of their own, whose weights are none of the adapter's."""
    names = folder.names()
    holding = {os.path.dirname(name) for name in names if _WEIGHTS.fullmatch(name)}
    return sorted(place for place in holding if place and f"{place}/config.json" in names and not _is_other(place))


def _files(folder: Folder, own: str, base: Tensors) -> list[str]:
    """Return files of weights, an index for its shards; without those of the base model and of other models."""
    names = folder.names()
    described = {os.path.dirname(name) for name in names if name.endswith(("/config.json", "/adapter_config.json"))}
    indexed = {name.removesuffix(".index.json") for name in names if name.endswith(".index.json")}
    of_base = {own}
    if os.path.realpath(base.where) == os.path.realpath(folder.path):
        of_base |= {*MODEL_FILES, *(os.path.basename(entry.file) for entry in base.values())}
    return [
        name
        for name in names
        if _WEIGHTS.fullmatch(name)
        and name not in of_base
        and _SHARD.sub("", name) not in indexed - {name}
        and not is_trainer_state(os.path.basename(name))
        and not os.path.basename(name).startswith("adapter_model.")
        and not any(name.startswith(f"{place}/") for place in described)
        and not _is_other(os.path.dirname(name))
    ]


def _is_other(place: str) -> bool:
    return any(part.startswith(_OTHER_THINGS) for part in place.split("/"))


def _opened(folder: Folder, file: str) -> Tensors | None:
    try:
        return open_file(folder, file)
    except NoTensors:  # state of a trainer
        return None
    except CheckpointError as error:
        raise CheckpointError(f"beside an adapter, {error.message}", hint=f"{error.hint} {_AWAY}") from error


def _weights(tensors: Tensors) -> dict[str, str]:
    """Return possible weights of a model: names without wrappers to names in the file."""
    names = [name for name, entry in tensors.items() if entry.shape and is_float(entry) and not LORA.fullmatch(name)]
    plain = {plain_name(name): name for name in names if ".original_module." not in name}
    return {name: old for name, old in plain.items() if not name.startswith(_HEADS)}


def _check_adapter(
    where: str, tensors: Tensors, weights: Mapping[str, str], model: ModuleNames, merged: Collection[str]
) -> None:
    """Refuse a file that changes what the adapter changes too, or holds LoRA matrices that the adapter lacks."""
    modules = {plain_name(f"{match['module']}.weight") for match in map(LORA.fullmatch, tensors) if match}
    for name in sorted(modules):
        place = model.find(name)
        if not of_language_model(name) and (place is None or place.tensor not in merged):
            raise CheckpointError(
                f"{where} holds LoRA matrices of {name.removesuffix('.weight')}, which the adapter beside it lacks",
                hint=f"Give each adapter a folder of its own. {_AWAY}",
            )
    for name, old in weights.items():
        place = model.find(name)
        if place and place.tensor in merged and not of_language_model(name) and ".base_layer." not in old:
            raise CheckpointError(
                f"{where} holds {old}, which the adapter beside it changes too: nothing says whether it is merged",
                hint="Move one of the two to a folder of its own, and give the one that you mean.",
            )


def _placed(
    where: str, weights: Mapping[str, str], tensors: Tensors, base: Tensors, model: ModuleNames
) -> dict[str, str]:
    """Map the names of `weights` in the base model to names in the file; refuse them if it has no place for them."""
    there = {part for name in base for part in name.split(".")}
    language = any(map(of_language_model, base))
    strange = [name for name in weights if not (model.find(name) or _is_elsewhere(name, there, language=language))]
    if not strange:
        return dict(weights)
    fitting = list(_below(weights, tensors, base, model))
    if len(fitting) == 1:
        return fitting[0]
    raise CheckpointError(
        f"{where}, beside an adapter, holds {len(strange)} tensors that {base.where} does not have"
        f"{' or has in several places' if fitting else ''}, {strange[0]!r} among them",
        hint=f"If they are, save the model whole after PEFT's merge_and_unload() and give that. {_AWAY}",
    )


def _is_elsewhere(name: str, there: set[str], *, language: bool) -> bool:
    """Return whether `name` is no weight of the tower held by the base model, whose parts of names are `there`."""
    parts = set(name.split("."))
    if of_language_model(name) or (language and there.isdisjoint(_TOWER | _OTHER_PARTS)):
        return True
    new = _TOWER if parts & _TOWER else parts & _OTHER_PARTS
    return bool(new) and there.isdisjoint(new)


def _below(weights: Mapping[str, str], tensors: Tensors, base: Tensors, model: ModuleNames) -> Iterable[dict[str, str]]:
    """Yield names of the base model that `weights` fit as a whole, below a prefix that the file leaves out."""
    seen = set()
    for prefix in sorted({prefix for name in base for prefix in _prefixes(name)}):
        names = {}
        for name, old in weights.items():
            place = model.find(prefix + name)
            if place is None or not place.is_whole or base[place.tensor].shape != tensors[old].shape:
                break
            names[place.tensor] = old
        if len(names) == len(weights) and frozenset(names) not in seen:
            seen.add(frozenset(names))
            yield names


def _prefixes(name: str) -> list[str]:
    """Return the prefixes of `name` before its first number."""
    parts = re.split(r"\.\d+\.", name)[0].split(".")
    return [".".join(parts[:count]) + "." for count in range(1, len(parts) + 1)]
