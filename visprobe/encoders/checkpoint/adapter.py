"""Tensors of a base model with a LoRA adapter, merged as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from visprobe.encoders.checkpoint.beside_adapter import beside, other_models
from visprobe.encoders.checkpoint.lora import LoraSettings, lora_settings, merged, merged_embedding
from visprobe.encoders.checkpoint.module_names import ModuleNames, Place
from visprobe.encoders.checkpoint.wrappers import LORA, of_language_model, plain_name
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
