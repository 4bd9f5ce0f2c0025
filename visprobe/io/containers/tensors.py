"""Tensors of a checkpoint by name, whatever container holds them; nothing is read before it is asked for."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.regular import DAMAGED, INDEX, read_object

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """Place, shape and dtype of one tensor on disk.

    Attributes:
        name: Name in the file.
        dtype: Stored dtype as safetensors spells it ("BF16"), a key of `DTYPES` if torch can hold it.
        shape: Shape of the tensor.
        nbytes: Size in bytes.
        file: Name of the file, for messages.
        offset: First byte in that file, where the container has one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    offset: int = 0


class Tensors(Mapping[str, TensorEntry], ABC):
    """All tensors of a checkpoint by name; only headers are read until `read` is called.

    Attributes:
        where: Name of the checkpoint, for messages.
        container: File format, for people: "safetensors", "bin", "distcp", …
        bytes_read: Bytes read so far, headers and index included.
        notes: Warnings for the reader, one sentence each.
    """

    container: str

    def __init__(self, where: str) -> None:
        self.where = where
        self.bytes_read = 0
        self.notes: list[str] = []
        self._entries: dict[str, TensorEntry] = {}

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, name: str) -> torch.Tensor:
        """Read the tensor `name` in its stored dtype, on the CPU.

        Raises:
            CheckpointError: If the tensor is absent, was not gathered, or is of a type that torch cannot hold.
        """
        return self.read_many([name])[name]

    def read_many(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read the tensors `names`, in stored dtype, in the order in which they lie on disk.

        Raises:
            CheckpointError: If a tensor is absent, was not gathered, or is of a type that torch cannot hold.
        """
        entries = [self._readable(name) for name in dict.fromkeys(names)]
        empty = {one.name: torch.empty(one.shape, dtype=DTYPES[one.dtype]) for one in entries if not one.nbytes}
        return self._load([entry for entry in entries if entry.nbytes]) | empty

    def outlines(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return the tensors `names` on the device "meta": shape and dtype as `read_many` gives them, no values.

        Raises:
            CheckpointError: If a tensor is absent, was not gathered, or is of a type that torch cannot hold.
        """
        return self._outlined([self._readable(name) for name in dict.fromkeys(names)])

    def _outlined(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        return {one.name: torch.empty(one.shape, dtype=DTYPES[one.dtype], device="meta") for one in entries}

    @abstractmethod
    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        """Read the tensors of `entries`, which were checked before; adds to `bytes_read`."""

    def _readable(self, name: str) -> TensorEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.where} has no tensor {name!r}", hint="Check that the checkpoint is complete.")
        if entry.shape == (0,):  # ZeRO-3 leaves this shape of a tensor that lies in another process
            raise CheckpointError(
                f"tensor {name!r} in {entry.file} has no elements (shape {list(entry.shape)})",
                hint="It was saved under ZeRO-3 without gathering; save it again with stage3_gather_16bit_weights_on_"
                "model_save, or run zero_to_fp32.py.",
            )
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {entry.file} has the unknown type {entry.dtype!r}",
                hint="Save the checkpoint in float32, bfloat16 or float16.",
            )
        return entry


class Joined(Tensors):
    """Tensors of `first`, and those of `second` that `first` lacks or holds without elements.

    Args:
        first: Tensors that take precedence.
        second: Tensors that fill the gaps.
        names: Name of a tensor of `second` here to its name there.
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


SHARD_OF = re.compile(r"-(\d+)-of-(\d+)\.\w+$")


def read_index(folder: Folder, index: str) -> tuple[dict[str, set[str]], int]:
    """Load the names of tensors that each shard must hold, and the bytes read to know them.

    Args:
        folder: Folder of the index and its shards.
        index: File name of the index.

    Returns:
        Names of tensors by shard, sorted by shard; size of the index in bytes.

    Raises:
        CheckpointError: If the index is damaged, or a shard is absent or lies elsewhere.
    """
    path, inside = folder.fetch(index), index[: index.rfind("/") + 1]
    try:
        shard_of = {str(k): f"{inside}{v}" for k, v in read_object(path, INDEX)["weight_map"].items()}
    except (KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of shards: {error!r}", hint=DAMAGED) from error
    if not shard_of:
        raise CheckpointError(f"{path} names no tensors", hint=DAMAGED)
    names: dict[str, set[str]] = {shard: set() for shard in sorted(set(shard_of.values()))}
    for name, shard in shard_of.items():
        names[shard].add(name)
    _check_shards(path, list(names), set(folder.names()))
    return names, path.stat().st_size


def check_promise(index: str, shard: str, listed: Collection[str], there: Collection[str]) -> None:
    """Check that all of `listed` are `there`.

    Raises:
        CheckpointError: If the shard lacks tensors that the index lists.
    """
    if absent := sorted(set(listed) - set(there)):
        raise CheckpointError(
            f"{index} promises {len(absent)} tensors that {shard} does not hold, {absent[0]!r} among them", hint=DAMAGED
        )


def _check_shards(path: Path, shards: list[str], there: set[str]) -> None:
    if outside := [shard for shard in shards if _is_outside(PurePosixPath(shard))]:
        raise CheckpointError(f"{path} names {outside[0]!r}, which is not a file below its folder", hint=DAMAGED)
    if absent := [shard for shard in shards if shard not in there]:
        raise CheckpointError(f"{path} names shards that are not there: {', '.join(absent)}", hint=DAMAGED)
    numbers = [(int(m[1]), int(m[2])) for m in map(SHARD_OF.search, shards) if m]
    total = max((of for _, of in numbers), default=0)
    if numbers and (unlisted := sorted(set(range(1, total + 1)) - {number for number, _ in numbers})):
        raise CheckpointError(f"{path} does not name shard {unlisted[0]} of {total}", hint=DAMAGED)


def _is_outside(shard: PurePosixPath) -> bool:
    return shard.is_absolute() or ".." in shard.parts or "\\" in str(shard)
