"""Two checkpoints read as one: what the first leaves out is taken from the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from visprobe.io.containers.tensors import TensorEntry, Tensors


class Joined(Tensors):
    """The tensors of `first`, and those of `second` that `first` lacks or holds without elements.

    Args:
        first: Tensors that count.
        second: Where the others come from.
        names: From the name under which a tensor of `second` appears here to its name there.
    """

    def __init__(self, first: Tensors, second: Tensors, names: Mapping[str, str]) -> None:
        super().__init__(first.where)
        self.container = f"{first.container}+{second.container}"
        self._first, self._second = first, second
        self._names = {name: key for name, key in names.items() if name not in first or first[name].nbytes == 0}
        self._entries = {**first, **{name: replace(second[key], name=name) for name, key in self._names.items()}}
        self.notes = [*first.notes, *second.notes]
        self.bytes_read = first.bytes_read + second.bytes_read

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        borrowed = [entry.name for entry in entries if entry.name in self._names]
        tensors = self._first.read_many(entry.name for entry in entries if entry.name not in self._names)
        read = self._second.read_many(self._names[name] for name in borrowed)
        self.bytes_read = self._first.bytes_read + self._second.bytes_read
        self.notes[:] = [*self._first.notes, *self._second.notes]
        return tensors | {name: read[self._names[name]] for name in borrowed}
