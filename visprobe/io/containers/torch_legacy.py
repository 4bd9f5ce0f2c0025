"""A file of `torch.save` in the format before zip: five pickles, then the storages one behind the other.

It is read here and not by `torch.load`, which returns uninitialised memory for a file whose list of storages is cut.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import ByteFile
from visprobe.io.containers.inert_pickle import MAX_PICKLE
from visprobe.io.containers.tensors import DAMAGED
from visprobe.io.containers.torch_archive import Storage, View, to_tensor, unpickle_tensors

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = 1001
_STEP = 1 << 16  # bytes fetched at once while the pickles are read


class LegacyArchive:
    """A file that `torch.save` wrote before 1.6, or with `_use_new_zipfile_serialization=False`.

    Args:
        file: The file.

    Attributes:
        root: The object that was saved, with a `View` for every tensor.
        bytes_read: Bytes read so far.
        has_checksums: False; the format has none.

    Raises:
        CheckpointError: If the file is damaged, or needs a class that is not safe to load.
    """

    has_checksums = False

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self._storages: dict[str, Storage] = {}
        head = _Head(file)
        _, protocol, system, self.root, keys = (unpickle_tensors(head, str(file), self._storage) for _ in range(5))
        try:
            if protocol != _PROTOCOL or system["little_endian"] is not True:
                raise ValueError(f"protocol {protocol!r} on {system!r}")
            self._starts = self._walk(keys, head.at)
        except (ValueError, TypeError, LookupError) as error:
            raise CheckpointError(f"{file} is damaged: {error!r}"[:300], hint=DAMAGED) from error
        self.bytes_read = head.fetched + 8 * len(self._starts)

    def read(self, views: Mapping[str, View]) -> dict[str, torch.Tensor]:
        """The tensors of `views`, contiguous, each with memory of its own."""
        place = {name: self._starts[view.storage.record] + view.span[0] for name, view in views.items()}
        names = sorted(views, key=place.__getitem__)
        data = self._file.read([(place[name], views[name].span[1] - views[name].span[0]) for name in names])
        self.bytes_read += sum(map(len, data))
        return {name: to_tensor(views[name], held) for name, held in zip(names, data, strict=True)}

    def _walk(self, keys: list[Any], at: int) -> dict[str, int]:
        """Where each storage begins; the file must hold all of them and nothing else."""
        if sorted(keys) != sorted(self._storages):
            raise ValueError("its list of storages is not that of its tensors")
        starts = {}
        for key in keys:
            storage = self._storages[key]
            if at + 8 + storage.nbytes > self._file.size:
                raise ValueError(f"it ends before storage {key}")
            count = int.from_bytes(self._file.read([(at, 8)])[0], "little")
            if count * storage.dtype.itemsize != storage.nbytes:
                raise ValueError(f"storage {key} is of {count} elements")
            starts[key] = at + 8
            at += 8 + storage.nbytes
        if at != self._file.size:
            raise ValueError(f"its storages end at byte {at} of {self._file.size}")
        return starts

    def _storage(self, saved_id: Any) -> Storage:
        kind, dtype, key, _, count, part = saved_id
        storage = Storage(str(key), dtype, operator.index(count) * dtype.itemsize)
        if kind != "storage" or part is not None or self._storages.setdefault(storage.record, storage) != storage:
            raise ValueError(f"storage {key} is described in two ways")
        return storage


class _Head:
    """The beginning of `file` as pickle wants it, fetched step by step."""

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self._held = bytearray()
        self.at = 0

    @property
    def fetched(self) -> int:
        return len(self._held)

    def read(self, count: int, /) -> bytes:
        while len(self._held) < self.at + count and self._grow():
            pass
        data = bytes(self._held[self.at : self.at + count])
        self.at += len(data)
        return data

    def readline(self) -> bytes:
        while (end := self._held.find(b"\n", self.at)) < 0:
            if not self._grow():
                raise ValueError("a line without end")
        return self.read(end + 1 - self.at)

    def _grow(self) -> bool:
        count = min(_STEP, self._file.size - len(self._held), MAX_PICKLE - len(self._held))
        if count > 0:
            self._held += self._file.read([(len(self._held), count)])[0]
        return count > 0
