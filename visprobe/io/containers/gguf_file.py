"""Tensors and metadata of a GGUF file, the format of llama.cpp, read by byte range."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from visprobe.errors import CheckpointError, PrerequisiteError
from visprobe.io.containers.folder import ByteFile, Folder
from visprobe.io.containers.tensors import DTYPES, TensorEntry, Tensors
from visprobe.io.regular import DAMAGED

_FLOATS = {0: "F32", 1: "F16", 30: "BF16"}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CHUNK = 1 << 16
_MAX_DIMS = 4
_MAX_HEADER = 64 << 20  # bytes; the vocabulary of a language model takes some megabytes


class GgufFile(Tensors):
    """Tensors of one GGUF file (version 2 or 3, little-endian).

    Quantised tensors are dequantised to float32.

    Args:
        folder: Folder of the file.
        name: Name of the file.

    Attributes:
        metadata: Keys and values of the header.

    Raises:
        CheckpointError: If the file is damaged or of another version.
        PrerequisiteError: If it holds quantised tensors and the library `gguf` is not installed.
    """

    container = "gguf"

    def __init__(self, folder: Folder, name: str) -> None:
        super().__init__(f"{folder}/{name}")
        self.notes = folder.notes
        self._file = folder.open(name)
        self._types: dict[str, int] = {}
        self.metadata: dict[str, Any] = {}
        header = _Header(self._file)
        try:
            self._read_header(header)
        except (ValueError, TypeError, OverflowError, struct.error) as error:
            raise CheckpointError(f"{self._file} is not a GGUF file, or is damaged: {error}", hint=DAMAGED) from error
        self.bytes_read = header.at
        if quantised := sum(kind not in _FLOATS for kind in self._types.values()):
            self.notes.append(
                f"{quantised} tensors are quantised in {name}: what is measured are their rounded values."
            )

    def _read_header(self, header: _Header) -> None:
        if header.take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, tensors, pairs = header.unpack("IQQ")
        if version not in (2, 3):
            raise ValueError(f"version {version}")
        for _ in range(pairs):
            key = header.string()
            self.metadata[key] = header.value(*header.unpack("I"))
        infos = [_tensor_info(header) for _ in range(tensors)]
        alignment = int(self.metadata.get("general.alignment", 32))
        if alignment < 1:
            raise ValueError(f"an alignment of {alignment}")
        start = -(-header.at // alignment) * alignment
        for name, shape, kind, offset in infos:
            nbytes = _nbytes(shape, kind)
            if name in self._types or start + offset + nbytes > self._file.size:
                raise ValueError(f"tensor {name!r} is there twice, or ends after the file")
            self._types[name] = kind
            dtype = _FLOATS.get(kind, "F32")
            self._entries[name] = TensorEntry(name, dtype, shape, nbytes, str(self._file), start + offset)
        _check_layout(self._entries.values(), start, alignment)

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        ordered = sorted(entries, key=lambda entry: entry.offset)
        read = self._file.read([(entry.offset, entry.nbytes) for entry in ordered])
        self.bytes_read += sum(entry.nbytes for entry in ordered)
        return {entry.name: self._tensor(entry, data) for entry, data in zip(ordered, read, strict=True)}

    def _tensor(self, entry: TensorEntry, data: bytearray) -> torch.Tensor:
        kind = self._types[entry.name]
        if kind in _FLOATS:
            return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).reshape(entry.shape)
        library = _library()
        try:
            values = library.quants.dequantize(np.frombuffer(data, np.uint8), library.GGMLQuantizationType(kind))
        except NotImplementedError as error:
            raise CheckpointError(f"{entry.name} in {entry.file}: {error}", hint="Use a file in F16 or F32.") from error
        return torch.from_numpy(values.astype(np.float32)).reshape(entry.shape)


class _Header:
    """Reader of a file from its beginning, piece by piece; every count is checked against what is left."""

    def __init__(self, file: ByteFile) -> None:
        self._file, self._data = file, bytearray()
        self.at = 0

    def check(self, count: int) -> None:
        if count > self._file.size - self.at:
            raise ValueError("it ends within its header")
        if count > _MAX_HEADER - self.at:
            raise ValueError(f"a header of more than {_MAX_HEADER} bytes")

    def take(self, count: int) -> bytes:
        self.check(count)
        end = self.at + count
        if end > len(self._data):
            have = len(self._data)
            more = min(max(end - have, _CHUNK), self._file.size - have)
            self._data += self._file.read([(have, more)])[0]
        self.at = end
        return bytes(self._data[end - count : end])

    def unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def string(self) -> str:
        (length,) = self.unpack("Q")
        return self.take(length).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, length = self.unpack("IQ")
            if inner in _SCALARS:
                self.check(length)
                return list(self.unpack(f"{length}{_SCALARS[inner]}"))
            if inner != _STRING:
                raise ValueError(f"an array of type {inner}")
            self.check(length)
            return [self.string() for _ in range(length)]
        if kind not in _SCALARS:
            raise ValueError(f"a value of type {kind}")
        return self.unpack(_SCALARS[kind])[0]


def _tensor_info(header: _Header) -> tuple[str, tuple[int, ...], int, int]:
    name = header.string()
    (dims,) = header.unpack("I")
    if dims > _MAX_DIMS:
        raise ValueError(f"tensor {name!r} has {dims} dimensions")
    shape = header.unpack(f"{dims}Q")
    kind, offset = header.unpack("IQ")
    # GGUF lists dimensions from the fastest-varying one; torch from the slowest
    return name, tuple(reversed(shape)), kind, offset


def _check_layout(entries: Iterable[TensorEntry], start: int, alignment: int) -> None:
    """Check that each tensor begins where the one before it ends, padded to a multiple of the alignment."""
    end = start
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset != end:
            raise ValueError(f"tensor {entry.name!r} begins at byte {entry.offset}, not {end} as those before it ask")
        end += -(-entry.nbytes // alignment) * alignment


def _nbytes(shape: tuple[int, ...], kind: int) -> int:
    if kind in _FLOATS:
        return math.prod(shape) * DTYPES[_FLOATS[kind]].itemsize
    library = _library()
    sizes = {int(key): size for key, size in library.GGML_QUANT_SIZES.items()}
    if kind not in sizes:
        raise ValueError(f"a tensor of type {kind}")
    block, size = sizes[kind]
    if not shape or shape[-1] % block:
        raise ValueError(f"a row of {shape[-1:]} elements in blocks of {block}")
    return int(math.prod(shape) // block * size)


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise PrerequisiteError(
            "the file holds quantised tensors, and the library gguf is not installed",
            hint="pip install 'visprobe[gguf]', or use a file in F16 or F32.",
        ) from error
    return gguf
