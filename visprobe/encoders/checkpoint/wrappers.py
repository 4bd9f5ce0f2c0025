"""Tensor names without the wrappers of training code: DDP, FSDP, torch.compile, PEFT, RL trainers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch

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
