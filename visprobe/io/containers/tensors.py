"""The tensors of a checkpoint by name, whatever container holds them; nothing is read before it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from visprobe.errors import CheckpointError

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
DAMAGED = "Copy or download the checkpoint again; the file is damaged or incomplete."


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: Name in the file.
        dtype: Stored type as safetensors spells it ("BF16"), a key of `DTYPES` if torch can hold it.
        shape: Shape.
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
        where: The checkpoint, for messages.
        container: What holds the tensors, for people: "safetensors", "bin", "distcp", …
        bytes_read: Bytes read so far, headers and index included.
        notes: What a reader should know, one sentence each.
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
        """The tensor `name` in its stored dtype, on the CPU.

        Raises:
            CheckpointError: If the tensor is absent, was not gathered, or is of a type that torch cannot hold.
        """
        return self.read_many([name])[name]

    def read_many(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors `names`, in stored dtype, read in the order in which they lie on disk.

        Raises:
            CheckpointError: As `read`.
        """
        entries = [self._readable(name) for name in dict.fromkeys(names)]
        empty = {one.name: torch.empty(one.shape, dtype=DTYPES[one.dtype]) for one in entries if not one.nbytes}
        return self._load([entry for entry in entries if entry.nbytes]) | empty

    def outlines(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors `names` as `read_many` would give them, without their values: on the device "meta".

        Raises:
            CheckpointError: As `read`, as far as headers tell.
        """
        return self._outlined([self._readable(name) for name in dict.fromkeys(names)])

    def _outlined(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        return {one.name: torch.empty(one.shape, dtype=DTYPES[one.dtype], device="meta") for one in entries}

    @abstractmethod
    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        """The tensors of `entries`, checked before; adds to `bytes_read`."""

    def _readable(self, name: str) -> TensorEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError(f"{self.where} has no tensor {name!r}", hint="Check that the checkpoint is complete.")
        if entry.shape == (0,):  # what ZeRO-3 leaves of a tensor that lies in another process
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
