"""Reading single tensors of a safetensors checkpoint by byte range, so that the rest is never touched.

Why not `safe_open`: docs/design/0001-reading-checkpoints.md.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from visprobe.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER = 100_000_000  # the limit of the safetensors format
_SHARD_OF = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
_DTYPES = {
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
_DAMAGED = "Copy or download the checkpoint again; the file is damaged or incomplete."


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: Name in the file.
        dtype: Stored type as safetensors spells it ("BF16").
        shape: Shape.
        nbytes: Size in bytes.
        file: The safetensors file.
        offset: First byte in that file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int


class TensorIndex(Mapping[str, TensorEntry]):
    """All tensors of a checkpoint folder by name; only their headers are read until `read` is called.

    Attributes:
        folder: The checkpoint folder.
        bytes_read: Bytes read so far, headers and index included.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes_read = 0
        self._entries: dict[str, TensorEntry] = {}

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def open(cls, folder: Path) -> TensorIndex:
        """Read the headers of `model.safetensors`, or of the shards named by its index, in `folder` itself.

        Folders inside `folder` (`checkpoint-500/`) are never looked at.

        Raises:
            CheckpointError: If there are no safetensors files, or a header or the index is damaged or incomplete.
        """
        index = cls(folder)
        if (folder / SINGLE_FILE).is_file():
            index._entries.update(index._header(folder / SINGLE_FILE))
        elif (folder / INDEX_FILE).is_file():
            index._add_shards()
        else:
            raise _nothing_to_read(folder)
        return index

    def read(self, name: str) -> torch.Tensor:
        """The tensor `name` in its stored dtype, on the CPU.

        Raises:
            CheckpointError: If the tensor is absent, has no elements, or is of a type that torch cannot hold.
        """
        return self.read_many([name])[name]

    def read_many(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors `names`, in stored dtype, read in the order in which they lie on disk.

        Raises:
            CheckpointError: As `read`.
        """
        entries = sorted((self._readable(name) for name in names), key=lambda e: (str(e.file), e.offset))
        tensors: dict[str, torch.Tensor] = {}
        for file in dict.fromkeys(entry.file for entry in entries):
            with file.open("rb", buffering=0) as stream:
                for entry in (e for e in entries if e.file == file):
                    data = self._bytes(stream, entry.offset, entry.nbytes)
                    tensors[entry.name] = torch.frombuffer(data, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
        return tensors

    def _readable(self, name: str) -> TensorEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r}", hint="Check that the checkpoint is complete."
            )
        if entry.nbytes == 0:
            raise CheckpointError(
                f"tensor {name!r} in {entry.file} has no elements (shape {list(entry.shape)})",
                hint="It was saved under ZeRO-3 without gathering; save it again with stage3_gather_16bit_weights_on_"
                "model_save, or run zero_to_fp32.py.",
            )
        if entry.dtype not in _DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {entry.file} has the unknown type {entry.dtype!r}",
                hint="Save the checkpoint in float32, bfloat16 or float16.",
            )
        return entry

    def _bytes(self, stream: BinaryIO, offset: int, count: int) -> bytearray:
        data = bytearray(count)
        view, done = memoryview(data), 0
        stream.seek(offset)
        while done < count:  # an unbuffered read returns at most 2 GiB
            step = stream.readinto(view[done:])  # type: ignore[attr-defined]
            if not step:
                raise CheckpointError(f"{stream.name} ends before byte {offset + count}", hint=_DAMAGED)
            done += step
        self.bytes_read += count
        return data

    def _header(self, file: Path) -> dict[str, TensorEntry]:
        size = file.stat().st_size
        with file.open("rb", buffering=0) as stream:
            length = int.from_bytes(self._bytes(stream, 0, 8), "little") if size >= 8 else size
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise CheckpointError(
                    f"{file} is not a safetensors file, or is truncated ({size} bytes)", hint=_DAMAGED
                )
            raw = bytes(self._bytes(stream, 8, length))
        try:
            return _entries(json.loads(raw), file, 8 + length, size)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{file} has a damaged header: {error}", hint=_DAMAGED) from error

    def _add_shards(self) -> None:
        path = self.folder / INDEX_FILE
        raw = path.read_bytes()
        self.bytes_read += len(raw)
        try:
            shard_of: dict[str, str] = {str(k): str(v) for k, v in json.loads(raw)["weight_map"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is not an index of shards: {error!r}", hint=_DAMAGED) from error
        shards = sorted(set(shard_of.values()))
        self._check_shards(path, shards)
        for shard in shards:
            entries = self._header(self.folder / shard)
            listed = {name for name, file in shard_of.items() if file == shard}
            if absent := sorted(listed - set(entries)):
                raise CheckpointError(
                    f"{path} promises {len(absent)} tensors that {shard} does not hold, {absent[0]!r} among them",
                    hint=_DAMAGED,
                )
            self._entries.update({name: entries[name] for name in listed})

    def _check_shards(self, path: Path, shards: list[str]) -> None:
        if outside := [shard for shard in shards if Path(shard).name != shard]:
            raise CheckpointError(f"{path} names {outside[0]!r}, which is not a file beside it", hint=_DAMAGED)
        if absent := [shard for shard in shards if not (self.folder / shard).is_file()]:
            raise CheckpointError(f"{path} names shards that are not there: {', '.join(absent)}", hint=_DAMAGED)
        numbers = [(int(m[1]), int(m[2])) for m in map(_SHARD_OF.search, shards) if m]
        total = max((of for _, of in numbers), default=0)
        if numbers and (unlisted := sorted(set(range(1, total + 1)) - {number for number, _ in numbers})):
            raise CheckpointError(f"{path} does not name shard {unlisted[0]} of {total}", hint=_DAMAGED)


def _entries(header: Mapping[str, Any], file: Path, start: int, size: int) -> dict[str, TensorEntry]:
    entries, end = {}, start
    for name, fields in header.items():
        if name == "__metadata__":
            continue
        first, last = map(operator.index, fields["data_offsets"])
        shape = tuple(map(operator.index, fields["shape"]))
        entry = TensorEntry(name, str(fields["dtype"]), shape, last - first, file, start + first)
        known = _DTYPES.get(entry.dtype)
        if min(first, last - first, *shape) < 0 or (known and entry.nbytes != math.prod(shape) * known.itemsize):
            raise ValueError(f"tensor {name!r} of shape {list(shape)} cannot lie in bytes {first} to {last}")
        entries[name], end = entry, max(end, start + last)
    if end > size:
        raise ValueError(f"it promises {end} bytes, the file has {size}")
    return entries


def _nothing_to_read(folder: Path) -> CheckpointError:
    if not folder.is_dir():
        return CheckpointError(
            f"{folder} is not a folder", hint="Give the folder that holds config.json and the weights."
        )
    other = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
    if other:
        return CheckpointError(
            f"{folder} has no {SINGLE_FILE}, only {', '.join(other[:3])}",
            hint="safetensors is needed for now: load the model in transformers and save it with save_pretrained.",
        )
    return CheckpointError(
        f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}",
        hint="Give the folder of one checkpoint; nested folders such as checkpoint-500 are not searched.",
    )
