"""LoRA adapters: the base model's tensors with the adapter merged into those that are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from visprobe.encoders.lora import LoraSettings, lora_settings, merged, merged_embedding
from visprobe.encoders.wrappers import Renamed, plain_name
from visprobe.errors import CheckpointError
from visprobe.io.containers import open_file
from visprobe.io.folder import Folder
from visprobe.io.json_object import read_object
from visprobe.io.tensors import DTYPES, TensorEntry, Tensors

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_BESIDE = "non_lora_trainables.bin"  # where LLaVA's code saves what it trained beside the adapter
_UNCHANGED = "the adapter changes neither tower nor projector"
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_[^.]+)(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<end>weight|bias))?"
)
_LANGUAGE_MODEL = {"language_model", "text_model", "lm_head", "embed_tokens", "experts"}
_OPTIONAL_PARTS = {"model", "vision_model", "language_model"}  # of a name; versions of transformers differ in them


@dataclass
class _Delta:
    """The adapter's tensors for one module: `lora_A.weight`, `lora_B.weight`, … to their names."""

    module: str
    names: dict[str, str] = field(default_factory=dict)


class Adapted(Tensors):
    """A base model's tensors, changed by an adapter as they are read.

    Args:
        base: The base model's tensors.
        parts: The adapter's tensors, later ones over earlier ones.
        settings: How LoRA matrices are scaled.

    Raises:
        CheckpointError: If the adapter changes a module of the tower or projector that the base model does not have.
    """

    def __init__(self, base: Tensors, parts: Sequence[Tensors], settings: LoraSettings) -> None:
        super().__init__(base.where)
        self.container = f"{base.container}+lora"
        self.notes = [_UNCHANGED]
        self._base, self._settings = base, settings
        self._entries.update(base)
        self._part_of: dict[str, Tensors] = {}
        self._whole: dict[str, str] = {}
        self._deltas: dict[str, _Delta] = {}
        self._parts = parts
        self._find = _Finder(base)
        self._changed: set[str] = set()
        for part in parts:
            self._plan(part)
        self._count()

    def _plan(self, part: Tensors) -> None:
        deltas: dict[str, _Delta] = {}
        for name in part:
            self._part_of[name] = part
            if match := _LORA.fullmatch(name):
                delta = deltas.setdefault(match["module"], _Delta(match["module"]))
                kind = f"{match['kind']}.{match['end'] or 'weight'}"
                if delta.names.setdefault(kind, name) != name:
                    raise CheckpointError(
                        f"{part.where} holds several adapters: {delta.names[kind]!r} and {name!r}",
                        hint="Save one of them alone.",
                    )
            elif ".original_module." not in name:  # what modules_to_save replaces
                self._replace(name, part[name])
        for delta in deltas.values():
            self._add(delta, part.where)

    def _replace(self, name: str, entry: TensorEntry) -> None:
        plain = plain_name(name)
        target = self._find(plain) or plain
        self._whole[target] = name
        there = self._base.get(target)
        self._entries[target] = replace(entry, name=target, dtype=there.dtype if there else entry.dtype)

    def _add(self, delta: _Delta, where: str) -> None:
        module = plain_name(f"{delta.module}.weight").removesuffix(".weight")
        targets = {end: self._find(f"{module}.{end}") for end in ("weight", "bias")}
        if targets["weight"] is None:
            if _LANGUAGE_MODEL.intersection(module.split(".")):
                return
            raise CheckpointError(
                f"{where} changes {module}, which {self._base.where} does not have",
                hint="Check that base_model_name_or_path names the model that the adapter was trained on.",
            )
        self._deltas[targets["weight"]] = delta
        if "lora_B.bias" in delta.names and targets["bias"]:
            self._deltas[targets["bias"]] = delta
        elif "lora_B.bias" in delta.names:
            delta.names["lora_B.bias of a layer without bias"] = delta.names["lora_B.bias"]  # found when it is read

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        wanted = [entry.name for entry in entries]
        own = self._read_parts(name for target in wanted for name in self._needed(target))
        tensors = self._base.read_many(name for name in wanted if name in self._base and name not in self._whole)
        for name in wanted:
            if whole := self._whole.get(name):
                tensors[name] = self._cast(name, own[whole])
            if name in self._deltas:
                tensors[name] = self._merge(name, tensors[name], own)
        self._changed |= {name for name in wanted if name in self._whole or name in self._deltas}
        self._count()
        return tensors

    def _needed(self, target: str) -> list[str]:
        whole = [self._whole[target]] if target in self._whole else []
        return whole + (list(self._deltas[target].names.values()) if target in self._deltas else [])

    def _read_parts(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        by_part: dict[int, list[str]] = {}
        for name in names:
            by_part.setdefault(self._parts.index(self._part_of[name]), []).append(name)
        return {k: tensor for at, group in by_part.items() for k, tensor in self._parts[at].read_many(group).items()}

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that replaces another takes its dtype, as when it is loaded into the base model."""
        return tensor.to(DTYPES[self._entries[name].dtype])

    def _merge(self, name: str, weight: torch.Tensor, own: Mapping[str, torch.Tensor]) -> torch.Tensor:
        delta = self._deltas[name]
        parts = {kind: own[key] for kind, key in delta.names.items()}
        try:
            return _merged(name, weight, parts, delta.module, self._settings)
        except (RuntimeError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"the adapter's tensors for {delta.module} do not fit the weight of shape {list(weight.shape)}: "
                f"{error}".splitlines()[0],
                hint="Check that base_model_name_or_path names the model that the adapter was trained on.",
            ) from error

    def _count(self) -> None:
        self.bytes_read = self._base.bytes_read + sum(part.bytes_read for part in self._parts)
        summary = f"merged from {self._settings.where}: {len(self._changed)} tensors of tower and projector"
        own = [summary if self._changed else _UNCHANGED]
        self.notes[:] = [*self._base.notes, *(note for part in self._parts for note in part.notes), *own]


class _Finder:
    """Finds a base model's name for one that may be spelled as by another version of transformers."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._found: dict[tuple[str, ...], str | None] = {}
        for name in self._names:
            key = _skeleton(name)
            self._found[key] = None if key in self._found else name

    def __call__(self, name: str) -> str | None:
        return name if name in self._names else self._found.get(_skeleton(name))


def _skeleton(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part not in _OPTIONAL_PARTS)


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
    """The folder's adapter_config.json.

    Raises:
        CheckpointError: If it is damaged.
    """
    return read_object(folder.fetch(CONFIG))


def adapted(folder: Folder, base: Tensors) -> Tensors:
    """The tensors of `base` with the adapter in `folder` merged into them as they are read.

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
    files = [file] + ([_BESIDE] if _BESIDE in names else [])
    return Adapted(base, [open_file(folder, name) for name in files], settings)


def with_own_adapter(folder: Folder, tensors: Tensors) -> Tensors:
    """`tensors` of a model that was saved with adapters in it that are not merged: they are merged as it is read.

    Raises:
        CheckpointError: If there are such adapters and no adapter_config.json that says how they are scaled.
    """
    own = {name: name for name in tensors if _LORA.fullmatch(name)}
    if not own:
        return tensors
    if CONFIG not in folder.names():
        raise CheckpointError(
            f"{folder} holds adapters that are not merged, {next(iter(own))!r} among them, and no {CONFIG}",
            hint="Merge them with PEFT (model.merge_and_unload()) before saving, or put the adapter's config beside.",
        )
    base = Renamed(tensors, {name: name for name in tensors if name not in own})
    part = Renamed(tensors, own)
    part.bytes_read = 0
    return Adapted(base, [part], lora_settings(adapter_config(folder), f"{folder}/{CONFIG}"))
