"""Names of tensors: without the wrappers of training code, and as another version of transformers spells them.

Wrappers are those of DDP, FSDP, torch.compile, PEFT and RL trainers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import TensorEntry, Tensors

LORA = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_[^.]+)(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<end>weight|bias))?"
)
_ANYWHERE = re.compile(
    r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module|base_layer"
    r"|modules_to_save(?:\.default)?)\."
)
_COPY = re.compile(r"(?P<place>.+\.modules_to_save\.)(?P<adapter>[^.]+)\.(?P<rest>.+)")
_FIRST = re.compile(r"(?:module|(?:model\.)?base_model\.model|model(?=\.model\.))\.")
_LANGUAGE_MODEL = {"language_model", "text_model", "lm_head", "embed_tokens", "experts"}
_ROLES = ("policy.", "actor.", "pretrained_model.")


class Renamed(Tensors):
    """View of some tensors of a checkpoint under other names.

    Args:
        tensors: Tensors to read from.
        names: New name to name in `tensors`.
    """

    def __init__(self, tensors: Tensors, names: Mapping[str, str]) -> None:
        super().__init__(tensors.where)
        self.container = tensors.container
        self.notes = tensors.notes
        self.bytes_read = tensors.bytes_read
        self._tensors = tensors
        self._old = dict(names)
        for new, old in names.items():
            entry = tensors[old]
            self._entries[new] = TensorEntry(new, entry.dtype, entry.shape, entry.nbytes, entry.file, entry.offset)

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        before = self._tensors.bytes_read
        read = self._tensors.read_many(self._old[entry.name] for entry in entries)
        self.bytes_read += self._tensors.bytes_read - before
        return {entry.name: read[self._old[entry.name]] for entry in entries}


def of_language_model(name: str) -> bool:
    """Return whether the tensor `name` lies in the language model of a multimodal model."""
    parts = name.split(".")
    seen = any(part.startswith("vis") for part in parts)  # visual, vision_tower, vision_model
    return not seen and (not _LANGUAGE_MODEL.isdisjoint(parts) or parts[:2] in (["model", "layers"], ["model", "norm"]))


def plain_name(name: str) -> str:
    """Remove wrappers from `name`: "module.base_model.model.visual._orig_mod.merger.x" becomes "visual.merger.x"."""
    name = _ANYWHERE.sub("", name)
    while match := _FIRST.match(name):
        name = name[match.end() :]
    return name.replace(".base_model.model.", ".")  # a part of the model that was wrapped by itself


def unwrapped(tensors: Tensors) -> Tensors:
    """Return `tensors` under the names that their model alone would have.

    Where an RL trainer saved its policy beside value head and reference model, only the policy is left.

    Args:
        tensors: Tensors of one checkpoint.

    Returns:
        A view, or `tensors` itself if no name is wrapped.

    Raises:
        CheckpointError: If two names become one.
    """
    trained = "|".join(map(re.escape, sorted(_adapter_names(tensors))))
    copies = re.compile(rf"(?<=\.modules_to_save\.)(?:{trained})\.") if trained else re.compile("(?!)")
    plain = {name: plain_name(copies.sub("", name)) for name in tensors if ".original_module." not in name}
    role = next((role for role in _ROLES if any(name.startswith(role) for name in plain.values())), None)
    if role is not None:
        own = {old: plain_name(new.removeprefix(role)) for old, new in plain.items() if new.startswith(role)}
        if len(own) < len(plain):
            tensors.notes.append(
                f"{len(plain) - len(own)} tensors outside of {role}* (value head, reference model) are left aside"
            )
        plain = own
    if len(plain) == len(tensors) and all(old == new for old, new in plain.items()):
        return tensors
    return Renamed(tensors, _inverse(tensors.where, plain))


def _adapter_names(names: Iterable[str]) -> set[str]:
    """Return the names of adapters left in a model, as PEFT writes them into the names of their tensors."""
    names = list(names)
    originals = {
        name.replace(".original_module.", ".modules_to_save.") for name in names if ".original_module." in name
    }
    copies = [
        match for match in map(_COPY.fullmatch, names) if match and f"{match['place']}{match['rest']}" in originals
    ]
    lora = [match for match in map(LORA.fullmatch, names) if match and match["adapter"]]
    return {match["adapter"] for match in (*copies, *lora)}


def _inverse(where: str, plain: Mapping[str, str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for old, new in plain.items():
        if new in names:
            raise CheckpointError(
                f"{where} holds {names[new]!r} and {old!r}, which are both {new!r} without their wrappers",
                hint="Save the model alone, without the training code's copies of it.",
            )
        names[new] = old
    return names


Rename = Callable[[str], str]
_OPTIONAL_PARTS = {"model", "vision_model", "language_model"}  # versions of transformers add or drop these


@dataclass(frozen=True)
class Place:
    """Location of a module's weight in a file.

    Attributes:
        tensor: Name of the tensor.
        part: Number of the part, and count of equal parts of its rows, where one tensor of the file holds several
            weights.
    """

    tensor: str
    part: tuple[int, int] = (0, 1)

    @property
    def is_whole(self) -> bool:
        """True if the tensor holds this weight alone."""
        return self.part == (0, 1)

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the weight's rows of the file's `tensor`."""
        number, count = self.part
        return tensor.chunk(count)[number]

    def with_rows(self, tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the file's `tensor` with `weight` in its rows."""
        number, count = self.part
        parts = list(tensor.chunk(count))
        parts[number] = weight
        return torch.cat(parts) if count > 1 else weight


class ModuleNames:
    """Index of a model's weights by any of their names.

    Args:
        names: Names of its tensors in the file.
        configs: transformers configurations of the model and its tower; none for models that transformers lacks.
        rename: Maps an early name to today's, where transformers does not.
    """

    def __init__(self, names: Iterable[str], configs: Iterable[Any] = (), rename: Rename = str) -> None:
        self._names = set(names)
        classes = [MODEL_MAPPING[type(config)] for config in configs if type(config) in MODEL_MAPPING]
        self._conversions = [step for cls in classes for step in _conversions(cls)]
        self._optional = _OPTIONAL_PARTS | {cls.base_model_prefix for cls in classes}
        self._rename = rename
        self._found: dict[tuple[str, ...], Place | None] = {}
        for name in self._names:
            for spelled, place in self._spellings(name):
                key = self._key(spelled)
                # a name that leads to two places is ambiguous, and leads nowhere
                self._found[key] = None if self._found.get(key, place) != place else place

    def find(self, name: str) -> Place | None:
        """Return the place of the weight `name`, or None if there is none or several could be meant."""
        if name in self._names:
            return Place(name)
        spellings = (self._key(spelled) for spelled, place in self._spellings(name) if place.is_whole)
        return next((place for key in spellings if (place := self._found.get(key))), None)

    def _spellings(self, name: str) -> Iterator[tuple[str, Place]]:
        """Yield `name` and its spellings in today's classes, each with its place."""
        yield name, Place(name)
        today = self._rename(name)
        for step in self._conversions:
            if isinstance(step, WeightRenaming):
                today = step.rename_source_key(today)[0]
        for step in self._conversions:
            source = step.source_patterns[0]
            if _cuts(step) and (match := re.search(source, today)):
                for number, target in enumerate(step.target_patterns):
                    whole = today[: match.start()] + target + today[match.end() :]
                    yield whole, Place(name, (number, len(step.target_patterns)))
        yield today, Place(name)

    def _key(self, name: str) -> tuple[str, ...]:
        return tuple(part for part in name.split(".") if part not in self._optional)


def _conversions(cls: Any) -> list[Any]:
    return get_checkpoint_conversion_mapping(cls.__name__) or []


def _cuts(step: Any) -> bool:
    """Return whether `step` cuts the rows of one tensor of the file into several weights."""
    return (
        isinstance(step, WeightConverter)
        and len(step.source_patterns) == 1
        and [type(one) for one in step.operations] == [Chunk]
        and step.operations[0].dim == 0
    )
