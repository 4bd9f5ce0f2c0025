"""Folders of torch.distributed.checkpoint (`.metadata` and `*.distcp`), as FSDP training writes them."""

from __future__ import annotations

import io
import math
import operator
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import ByteFile, Folder
from visprobe.io.containers.inert_pickle import MAX_PICKLE, Inert, unpickle
from visprobe.io.containers.tensors import DTYPES, NAME_OF_DTYPE, TensorEntry, Tensors
from visprobe.io.containers.torch_archive import TorchArchive, View
from visprobe.io.regular import DAMAGED

METADATA = ".metadata"
FSDP_FOLDER = "pytorch_model_fsdp_0/"  # folder of the model as accelerate writes it
_CONVERT = "Save it again, or convert it with python -m torch.distributed.checkpoint.format_utils dcp_to_torch."


@dataclass(frozen=True)
class _Chunk:
    """Box of a tensor, and the place of its bytes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    length: int


class Distcp(Tensors):
    """Tensors of a torch.distributed.checkpoint folder, each assembled from its chunks.

    Args:
        folder: Folder of the files.
        inside: Folder in it that holds `.metadata`, with "/" at its end; "" if it is `folder` itself.

    Raises:
        CheckpointError: If `.metadata` is damaged, needs a class that is not on the list, or does not describe every
            element exactly once.
    """

    container = "distcp"

    def __init__(self, folder: Folder, inside: str = "") -> None:
        super().__init__(str(folder))
        self.notes = folder.notes
        self._folder = folder
        self._inside = inside
        self._files: dict[str, ByteFile] = {}
        self._chunks: dict[str, list[_Chunk]] = {}
        source = folder.open(inside + METADATA)
        if source.size > MAX_PICKLE:
            raise CheckpointError(f"{folder}/{inside}{METADATA} is damaged: {source.size} bytes", hint=DAMAGED)
        raw = bytes(source.read([(0, source.size)])[0])
        self.bytes_read = len(raw)
        metadata = unpickle(io.BytesIO(raw), f"{folder}/{inside}{METADATA}", _ALLOWED, _CONVERT)
        try:
            self._add(metadata.state_dict_metadata, metadata.storage_data)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise CheckpointError(f"{folder}/{inside}{METADATA} is damaged: {error}", hint=DAMAGED) from error

    def _add(self, described: Mapping[str, Any], stored: Mapping[Any, Any]) -> None:
        places = {
            (key.fqn, tuple(key.offset)): place for key, place in stored.items() if _field(key, "offset") is not None
        }
        _check_places(stored.values())
        for name, tensor in described.items():
            if not isinstance(tensor, _Tensor):
                continue
            dtype, shape = tensor.properties.args[0], _sizes(tensor.size)
            boxes = [box for box in tensor.chunks if math.prod(box.sizes)]  # a rank may hold no rows of a small tensor
            chunks = [self._chunk(box, places[name, _sizes(box.offsets)]) for box in boxes]
            _check_boxes(name, shape, chunks)
            nbytes = math.prod(shape) * dtype.itemsize
            if nbytes > sum(chunk.length for chunk in chunks):
                raise ValueError(f"tensor {name!r} of {nbytes} bytes is stored in fewer")
            self._chunks[str(name)] = chunks
            kind = NAME_OF_DTYPE.get(dtype, str(dtype))
            self._entries[str(name)] = TensorEntry(str(name), kind, shape, nbytes, f"{self._folder}/{self._inside}")

    def _chunk(self, box: Any, place: Any) -> _Chunk:
        if _field(place, "transform_descriptors"):
            raise ValueError(f"chunks are stored through {place.transform_descriptors}, which is not supported")
        offset, length = operator.index(place.offset), operator.index(place.length)
        if min(offset, length) < 0 or PurePath(place.relative_path).name != place.relative_path:
            raise ValueError(f"a chunk lies in {place.relative_path!r} at byte {offset}")
        return _Chunk(_sizes(box.offsets), _sizes(box.sizes), place.relative_path, offset, length)

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        return {entry.name: self._assemble(entry) for entry in entries}

    def _assemble(self, entry: TensorEntry) -> torch.Tensor:
        chunks = self._chunks[entry.name]
        parts = [self._read(entry, chunk) for chunk in chunks]
        if len(parts) == 1:
            return parts[0]
        whole = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        for chunk, part in zip(chunks, parts, strict=True):
            whole[_box(chunk)] = part
        return whole

    def _read(self, entry: TensorEntry, chunk: _Chunk) -> torch.Tensor:
        blob = _Blob(self._file(chunk.file), chunk)
        self.bytes_read += chunk.length
        archive = TorchArchive(blob)
        view = archive.root
        if not isinstance(view, View) or view.shape != chunk.sizes or view.dtype != DTYPES[entry.dtype]:
            raise CheckpointError(f"{blob} does not hold the part of {entry.name!r} that it should", hint=DAMAGED)
        return archive.read({entry.name: view})[entry.name]

    def _file(self, name: str) -> ByteFile:
        if name not in self._files:
            self._files[name] = self._folder.open(self._inside + name)
        return self._files[name]


class _Blob:
    """Bytes of one chunk, held in memory as a file."""

    def __init__(self, file: ByteFile, chunk: _Chunk) -> None:
        self._name = f"{file}, bytes {chunk.offset} to {chunk.offset + chunk.length}"
        if chunk.offset + chunk.length > file.size:
            raise CheckpointError(f"{self._name}: the file has only {file.size}", hint=DAMAGED)
        self.size = chunk.length
        self._data = file.read([(chunk.offset, chunk.length)])[0]

    def __str__(self) -> str:
        return self._name

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        return [self._data[offset : offset + count] for offset, count in ranges]


class _Tensor(Inert):
    """Stand-in for TensorStorageMetadata."""

    properties: Any
    size: Any
    chunks: Any


def _field(value: Any, name: str) -> Any:
    return value.__dict__.get(name)


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(map(operator.index, values))


def _box(chunk: _Chunk) -> tuple[slice, ...]:
    return tuple(slice(first, first + n) for first, n in zip(chunk.offsets, chunk.sizes, strict=True))


def _check_places(places: Iterable[Any]) -> None:
    """Check that no two chunks share a byte, so that none can be taken for another."""
    end: dict[str, int] = {}
    for file, offset, length in sorted((place.relative_path, place.offset, place.length) for place in places):
        if offset < end.get(file, 0):
            raise ValueError(f"two chunks lie at byte {offset} of {file!r}")
        end[file] = offset + length


def _check_boxes(name: str, shape: tuple[int, ...], chunks: Sequence[_Chunk]) -> None:
    """Check that chunks cover each element of the tensor once: all inside, none overlapping, sizes adding up."""
    for chunk in chunks:
        inside = len(chunk.sizes) == len(chunk.offsets) == len(shape) and all(
            min(first, n) >= 0 and first + n <= whole
            for first, n, whole in zip(chunk.offsets, chunk.sizes, shape, strict=True)
        )
        if not inside:
            raise ValueError(f"a chunk of tensor {name!r} lies outside of its shape {list(shape)}")
    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape) or _any_meet(chunks):
        raise ValueError(f"the chunks of tensor {name!r} do not cover each element once")


def _any_meet(chunks: Sequence[_Chunk]) -> bool:
    ordered = sorted(chunks, key=lambda chunk: chunk.offsets)
    for at, chunk in enumerate(ordered):
        for other in ordered[at + 1 :]:
            if chunk.sizes and other.offsets[0] >= chunk.offsets[0] + chunk.sizes[0]:
                break  # chunks are sorted along the first dimension, so later ones cannot overlap either
            if all(
                o < first + n and first < o + m
                for first, n, o, m in zip(chunk.offsets, chunk.sizes, other.offsets, other.sizes, strict=True)
            ):
                return True
    return False


_PACKAGE = "torch.distributed.checkpoint."
_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "torch.Size": tuple,
    "torch.serialization._get_layout": Inert,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
    **dict.fromkeys(
        (
            f"{_PACKAGE}metadata.{name}"
            for name in (
                "Metadata", "MetadataIndex", "ChunkStorageMetadata", "BytesStorageMetadata", "TensorProperties",
                "StorageMeta", "_MEM_FORMAT_ENCODING",
            )
        ),
        Inert,
    ),
    f"{_PACKAGE}metadata.TensorStorageMetadata": _Tensor,
    f"{_PACKAGE}filesystem._StorageInfo": Inert,
    f"{_PACKAGE}filesystem._StoragePrefix": Inert,
    "pathlib.PosixPath": Inert,
    "pathlib.WindowsPath": Inert,
    "pathlib._local.PosixPath": Inert,
    "pathlib._local.WindowsPath": Inert,
}  # fmt: skip
