"""Tensors of a base model with a LoRA adapter, merged as they are read."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from visprobe.encoders.checkpoint.beside_adapter import beside, other_models
from visprobe.encoders.checkpoint.lora import LoraSettings, lora_settings, merged, merged_embedding
from visprobe.encoders.checkpoint.tensor_names import LORA, ModuleNames, Place, Renamed, of_language_model, plain_name
from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.kinds import open_file
from visprobe.io.containers.tensors import DTYPES, TensorEntry, Tensors
from visprobe.io.regular import read_object

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_UNCHANGED = "the adapter changes neither tower nor projector"


_Read = Callable[[Tensors, Sequence[str]], dict[str, torch.Tensor]]


@dataclass
class _Delta:
    """Tensors of an adapter for one module: `lora_A.weight`, `lora_B.weight`, … to their names."""

    module: str
    names: dict[str, str] = field(default_factory=dict)


class Adapted(Tensors):
    """Tensors of a base model, changed by an adapter as they are read.

    Args:
        base: Tensors of the base model.
        parts: Tensors of the adapter; later ones replace earlier ones.
        settings: Scaling of the LoRA matrices.
        names: Names of the base model; by default those of `base`.

    Raises:
        CheckpointError: If the adapter changes a module of the tower or projector that the base model does not have.
    """

    def __init__(
        self, base: Tensors, parts: Sequence[Tensors], settings: LoraSettings, names: ModuleNames | None = None
    ) -> None:
        super().__init__(base.where)
        self.container = f"{base.container}+lora"
        self.notes = [_UNCHANGED]
        self._base, self._settings = base, settings
        self._entries.update(base)
        self._part_of: dict[str, Tensors] = {}
        self._whole: dict[str, list[tuple[str, Place]]] = {}
        self._deltas: dict[str, list[tuple[_Delta, Place]]] = {}
        self._parts = parts
        self._model = names or ModuleNames(base)
        self._changed: set[str] = set()
        for part in parts:
            self._plan(part)
        self._count()

    def _plan(self, part: Tensors) -> None:
        deltas: dict[str, _Delta] = {}
        for name in part:
            self._part_of[name] = part
            if match := LORA.fullmatch(name):
                delta = deltas.setdefault(match["module"], _Delta(match["module"]))
                kind = f"{match['kind']}.{match['end'] or 'weight'}"
                if delta.names.setdefault(kind, name) != name:
                    raise CheckpointError(
                        f"{part.where} holds several adapters: {delta.names[kind]!r} and {name!r}",
                        hint="Save one of them alone.",
                    )
            elif ".original_module." not in name:  # the untrained copy that PEFT keeps beside modules_to_save
                self._replace(name, part[name])
        for delta in deltas.values():
            self._add(delta, part.where)

    def _replace(self, name: str, entry: TensorEntry) -> None:
        plain = plain_name(name)
        place = self._model.find(plain) or Place(plain)
        there = self._base.get(place.tensor)
        if place.is_whole:
            self._whole[place.tensor] = [(name, place)]
            dtype = there.dtype if there else entry.dtype
            self._entries[place.tensor] = replace(entry, name=place.tensor, dtype=dtype)
        else:
            self._whole.setdefault(place.tensor, []).append((name, place))

    def _add(self, delta: _Delta, where: str) -> None:
        module = plain_name(f"{delta.module}.weight").removesuffix(".weight")
        weight, bias = (self._model.find(f"{module}.{end}") for end in ("weight", "bias"))
        if weight is None:
            if of_language_model(module):
                return
            raise CheckpointError(
                f"{where} changes {module}, which {self._base.where} does not have",
                hint="Check that base_model_name_or_path names the model that the adapter was trained on.",
            )
        self._deltas.setdefault(weight.tensor, []).append((delta, weight))
        if "lora_B.bias" in delta.names and bias:
            self._deltas.setdefault(bias.tensor, []).append((delta, bias))
        elif "lora_B.bias" in delta.names:
            delta.names["lora_B.bias of a layer without bias"] = delta.names["lora_B.bias"]  # refused when it is read

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        tensors = self._put_together(entries, lambda part, names: part.read_many(names))
        self._changed |= {name for name in tensors if name in self._whole or name in self._deltas}
        self._count()
        return tensors

    def _outlined(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        return self._put_together(entries, lambda part, names: part.outlines(names))

    def _put_together(self, entries: Sequence[TensorEntry], read: _Read) -> dict[str, torch.Tensor]:
        """Put the tensors of `entries` together; `read` gives tensors, or outlines, of base and parts."""
        wanted = [entry.name for entry in entries]
        own = self._read_parts((name for target in wanted for name in self._needed(target)), read)
        tensors = read(self._base, [name for name in wanted if not self._is_replaced(name)])
        for name in wanted:
            for key, place in self._whole.get(name, ()):
                tensors[name] = self._put(name, own[key], place, tensors.get(name))
            for delta, place in self._deltas.get(name, ()):
                tensors[name] = self._merge(delta, place, tensors[name], own)
        return tensors

    def _needed(self, target: str) -> list[str]:
        whole = [name for name, _ in self._whole.get(target, ())]
        return whole + [name for delta, _ in self._deltas.get(target, ()) for name in delta.names.values()]

    def _read_parts(self, names: Iterable[str], read: _Read) -> dict[str, torch.Tensor]:
        by_part: dict[int, list[str]] = {}
        for name in names:
            by_part.setdefault(self._parts.index(self._part_of[name]), []).append(name)
        return {k: tensor for at, group in by_part.items() for k, tensor in read(self._parts[at], group).items()}

    def _is_replaced(self, name: str) -> bool:
        return name not in self._base or any(place.is_whole for _, place in self._whole.get(name, ()))

    def _put(self, name: str, tensor: torch.Tensor, place: Place, there: torch.Tensor | None) -> torch.Tensor:
        """Give a tensor the dtype of the one it replaces, as loading it into the base model would."""
        tensor = tensor.to(DTYPES[self._entries[name].dtype])
        return tensor if there is None or place.is_whole else place.with_rows(there, tensor)

    def _merge(
        self, delta: _Delta, place: Place, weight: torch.Tensor, own: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        parts = {kind: own[key] for kind, key in delta.names.items()}
        try:
            return place.with_rows(
                weight, _merged(place.tensor, place.rows(weight), parts, delta.module, self._settings)
            )
        except (RuntimeError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"the adapter's tensors for {delta.module} do not fit the weight of shape {list(weight.shape)}: "
                f"{error}".splitlines()[0],
                hint="Check that base_model_name_or_path names the model that the adapter was trained on.",
            ) from error

    def _count(self) -> None:
        self.bytes_read = self._base.bytes_read + sum(part.bytes_read for part in self._parts)
        merged, whole = (len(self._changed.intersection(names)) for names in (self._deltas, self._whole))
        kinds = [f"{merged} merged"] * bool(merged) + [f"{whole} saved whole"] * bool(whole)
        summary = f"tensors of tower and projector by {self._settings.where}: {', '.join(kinds)}"
        own = [summary if kinds else _UNCHANGED]
        self.notes[:] = dict.fromkeys([*self._base.notes, *(note for part in self._parts for note in part.notes), *own])


def _merged(
    name: str, weight: torch.Tensor, parts: Mapping[str, torch.Tensor], module: str, settings: LoraSettings
) -> torch.Tensor:
    if unknown := sorted(set(parts) - _KINDS):
        raise KeyError(f"{unknown[0]} is unknown")
    if not weight.dtype.is_floating_point:
        raise TypeError(f"the base model's weight is of type {weight.dtype}")
    embedding = "lora_embedding_A.weight" in parts
    if embedding and len(parts) > 2:
        raise KeyError("DoRA of an embedding")
    a, b = (parts[f"lora_{'embedding_' if embedding else ''}{side}.weight"] for side in "AB")
    scaling = settings.scaling(plain_name(f"{module}.weight").removesuffix(".weight"), a.shape[0])
    if name.endswith(".bias"):
        return weight.add_(parts["lora_B.bias"].float() * scaling)
    if embedding:
        return merged_embedding(weight, a, b, scaling)
    return merged(weight, a, b, scaling, parts.get("lora_magnitude_vector.weight"))


_KINDS = {
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A.weight", "lora_embedding_B.weight",
    "lora_magnitude_vector.weight",
}  # fmt: skip


def adapter_config(folder: Folder) -> dict[str, Any]:
    """Load the folder's adapter_config.json.

    Raises:
        CheckpointError: If it is damaged.
    """
    return read_object(folder.fetch(CONFIG))


def adapted(folder: Folder, base: Tensors, model: ModuleNames) -> Tensors:
    """Return the tensors of `base`, changed as they are read by the adapter in `folder` and by weights saved beside it.

    Args:
        folder: Folder of the adapter.
        base: Tensors of the base model.
        model: Names of the base model.

    Raises:
        CheckpointError: If the adapter is incomplete, damaged, of a kind that is not merged here, or of another model.
    """
    settings = lora_settings(adapter_config(folder), f"{folder}/{CONFIG}")
    names = folder.names()
    file = next((name for name in WEIGHTS if name in names), None)
    if file is None:
        raise CheckpointError(
            f"{folder} has {CONFIG} and neither {' nor '.join(WEIGHTS)}", hint="Copy the adapter again, as a whole."
        )
    own = open_file(folder, file)
    modules = {match["module"] for match in map(LORA.fullmatch, own) if match}
    places = (model.find(plain_name(f"{module}.weight")) for module in modules)
    whole = beside(folder, file, base, model, {place.tensor for place in places if place})
    own.notes += _beside_notes(folder, whole)
    return Adapted(base, [own, *(tensors for _, tensors in whole)], settings, model)


def _beside_notes(folder: Folder, whole: Sequence[tuple[str, Tensors]]) -> list[str]:
    """Return warnings about the files beside an adapter."""
    notes = [f"trained whole, read from {file} beside the adapter: {len(tensors)} tensors" for file, tensors in whole]
    for number, (file, tensors) in enumerate(whole):
        before = [name for name, others in whole[:number] if not set(tensors).isdisjoint(others)]
        notes += [f"{file} and {', '.join(before)} hold weights of the same names; those of {file} are taken"] * bool(
            before
        )
    return notes + [f"{place}/ holds a model of its own, which is not read" for place in other_models(folder)]


def with_own_adapter(folder: Folder, tensors: Tensors) -> Tensors:
    """Merge adapters that were saved in a model, as its `tensors` are read.

    If their scale is unknown, the weights that they change cannot be read, and all others can.

    Returns:
        A view, or `tensors` itself if it holds no adapter.

    Raises:
        CheckpointError: If the adapter's configuration is damaged.
    """
    own = {name: name for name in tensors if LORA.fullmatch(name)}
    if not own:
        return tensors
    base = {name: name for name in tensors if name not in own}
    settings = _own_settings(folder)
    if settings is None:
        return Unmerged(tensors, base, own)
    part = Renamed(tensors, own)
    part.bytes_read = 0
    return Adapted(Renamed(tensors, base), [part], settings)


def _own_settings(folder: Folder) -> LoraSettings | None:
    """Return the scaling of the adapters left in a model, if a file gives it."""
    names = folder.names()
    if CONFIG in names:
        return lora_settings(adapter_config(folder), f"{folder}/{CONFIG}")
    config = read_object(folder.fetch("config.json")) if "config.json" in names else {}
    rank = config.get("use_backbone_lora")
    if config.get("model_type") == "internvl_chat" and isinstance(rank, int) and rank > 0:
        # InternVL's code wraps the tower with an alpha of twice the rank, whenever this field is set.
        return lora_settings({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}, f"{folder}/config.json")
    return None


class Unmerged(Renamed):
    """Tensors of a model saved with adapters whose scale is unknown.

    Args:
        tensors: All tensors.
        names: Names of those that are no adapter's.
        adapters: Names of those that are.
    """

    def __init__(self, tensors: Tensors, names: Mapping[str, str], adapters: Iterable[str]) -> None:
        super().__init__(tensors, names)
        model = ModuleNames(names)
        matches = [match for match in map(LORA.fullmatch, adapters) if match]
        places = {match["module"]: model.find(f"{match['module']}.weight") for match in matches}
        self._ranks = {
            place.tensor: tensors[match[0]].shape[0]
            for match in matches
            if match["kind"] in ("lora_A", "lora_embedding_A") and (place := places[match["module"]])
        }
        self.notes = [
            *tensors.notes,
            f"LoRA of {len(places)} modules is left unmerged in these files; the weights read here have none",
        ]

    def _readable(self, name: str) -> TensorEntry:
        if name in self._ranks:
            raise CheckpointError(
                f"{self.where} holds adapters that are not merged, of {name} among others, and nothing that says how "
                "they are scaled",
                hint="Merge them before saving, with model.merge_and_unload() of PEFT for each wrapped part (InternVL: "
                "python tools/merge_lora.py IN OUT); or put the lora_alpha of the training for ALPHA, and they are "
                f"merged here: echo {shlex.quote(self._settings())} > {shlex.quote(f'{self.where}/{CONFIG}')}",
            )
        return super()._readable(name)

    def _settings(self) -> str:
        """Return the adapter's configuration as far as its matrices determine it."""
        ranks = {name.removesuffix(".weight"): r for name, r in self._ranks.items() if not of_language_model(name)}
        rank = Counter(ranks.values()).most_common(1)[0][0]
        others = {module: r for module, r in ranks.items() if r != rank}
        fields = {"peft_type": "LORA", "r": rank, **({"rank_pattern": others} if others else {}), "lora_alpha": 0}
        return json.dumps(fields).replace(": 0}", ": ALPHA}")
