"""Reading of single tensors of a safetensors checkpoint by byte range, so that the rest is never touched.

Why not `safe_open`: docs/design/0001-reading-checkpoints.md.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import ByteFile, Folder
from visprobe.io.containers.tensors import DTYPES, TensorEntry, Tensors, check_promise, read_index
from visprobe.io.regular import DAMAGED

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER = 100_000_000  # the limit of the safetensors format
_METADATA = "__metadata__"
_NOTED = "visprobe.sha256"  # key in the metadata of files that visprobe writes: SHA-256 of each tensor, as JSON


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write contiguous `tensors` on the CPU as a safetensors file, with a hash of each that is checked on reading.

    Args:
        tensors: Tensors by name; no two share memory.
        path: Path of the file; atomicity is up to the caller (`visprobe.io.atomic.replacing`).
    """
    stored = {name: tensor.reshape(-1).view(torch.uint8).numpy() for name, tensor in tensors.items()}
    hashes = {name: sha256(values.data).hexdigest() for name, values in stored.items()}
    save_file(dict(tensors), path, metadata={"format": "pt", _NOTED: json.dumps(hashes)})


class SafetensorsFiles(Tensors):
    """Tensors of one safetensors file, or of the shards that an index names.

    Args:
        folder: Folder of the files.
        file: Single file (`SINGLE_FILE`, `adapter_model.safetensors`) or index (`*.index.json`).

    Raises:
        CheckpointError: If a header or the index is damaged or incomplete.
    """

    container = "safetensors"

    def __init__(self, folder: Folder, file: str = SINGLE_FILE) -> None:
        super().__init__(str(folder))
        self.notes = folder.notes
        self._folder = folder
        self._files: dict[str, ByteFile] = {}
        self._hashes: dict[str, str] = {}
        if file.endswith(".index.json"):
            self._add_shards(file)
        else:
            self._entries.update(self._header(file))

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        ordered = sorted(entries, key=lambda entry: (entry.file, entry.offset))
        for file in self._files.values():
            own = [entry for entry in ordered if entry.file == str(file)]
            for entry, data in zip(own, file.read([(e.offset, e.nbytes) for e in own]), strict=True):
                if entry.name in self._hashes and sha256(data).hexdigest() != self._hashes[entry.name]:
                    raise CheckpointError(f"{entry.name} in {file} is damaged: it has another hash", hint=DAMAGED)
                tensors[entry.name] = torch.frombuffer(data, dtype=DTYPES[entry.dtype]).reshape(entry.shape)
                self.bytes_read += entry.nbytes
        return tensors

    def _file(self, name: str) -> ByteFile:
        if name not in self._files:
            self._files[name] = self._folder.open(name)
        return self._files[name]

    def _header(self, name: str) -> dict[str, TensorEntry]:
        file = self._file(name)
        # 8 bytes of header length, a JSON header, then the tensors at offsets from its end
        length = int.from_bytes(file.read([(0, 8)])[0], "little") if file.size >= 8 else file.size
        if not 2 <= length <= min(_MAX_HEADER, file.size - 8):
            raise CheckpointError(
                f"{file} is not a safetensors file, or is truncated ({file.size} bytes)", hint=DAMAGED
            )
        raw = bytes(file.read([(8, length)])[0])
        self.bytes_read += 8 + length
        try:
            header = json.loads(raw, object_pairs_hook=_no_twins)
            self._hashes |= json.loads(header.get(_METADATA, {}).get(_NOTED, "{}"))
            return _entries(header, str(file), 8 + length, file.size)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{file} has a damaged header: {error}", hint=DAMAGED) from error

    def _add_shards(self, index: str) -> None:
        shards, read = read_index(self._folder, index)
        self.bytes_read += read
        for shard, listed in shards.items():
            entries = self._header(shard)
            check_promise(index, shard, listed, entries)
            self._entries.update({name: entries[name] for name in listed})


def _entries(header: Mapping[str, Any], file: str, start: int, size: int) -> dict[str, TensorEntry]:
    entries = {}
    for name, fields in header.items():
        if name == _METADATA:
            if not all(isinstance(value, str) for value in fields.values()):
                raise ValueError("__metadata__ holds more than text")
            continue
        first, last = map(operator.index, fields["data_offsets"])
        shape = tuple(map(operator.index, fields["shape"]))
        entry = TensorEntry(name, str(fields["dtype"]), shape, last - first, file, start + first)
        known = DTYPES.get(entry.dtype)
        if min(first, last - first, *shape) < 0 or (known and entry.nbytes != math.prod(shape) * known.itemsize):
            raise ValueError(f"tensor {name!r} of shape {list(shape)} cannot lie in bytes {first} to {last}")
        entries[name] = entry
    _check_layout(entries.values(), start, size)
    return entries


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ValueError("a name occurs twice")
    return named


def _check_layout(entries: Iterable[TensorEntry], start: int, size: int) -> None:
    """Check that every byte of the file belongs to exactly one tensor, as the format requires."""
    end = start
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset != end:
            raise ValueError(f"tensor {entry.name!r} begins at byte {entry.offset}, the one before it ends at {end}")
        end += entry.nbytes
    if end != size:
        raise ValueError(f"it promises {end} bytes, the file has {size}")
