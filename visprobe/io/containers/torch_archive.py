"""Reading of one file of `torch.save`: a zip of a small pickle and one record of bytes per storage.

The pickle says which tensor views which storage; records are read by byte range and compared with the checksums that
the zip has of them, which `torch.load` does not do.
"""

from __future__ import annotations

import io
import math
import operator
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import ByteFile
from visprobe.io.containers.inert_pickle import MAX_PICKLE, Inert, Readable, unpickle
from visprobe.io.regular import DAMAGED

ZIP_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = 30
_PIECE = 64 << 20  # bytes read at once
_MAX_EXPANDED = 256 << 20  # bytes of a tensor larger than its storage, which expand() makes
_CONVERT = (
    "If you trust its origin, load it once with torch.load(..., weights_only=False) and write the tensors alone with "
    "safetensors.torch.save_file."
)


@dataclass(frozen=True)
class Storage:
    """Bytes of one record, which tensors view.

    Attributes:
        record: Name of the record in the zip.
        dtype: Dtype of its elements.
        nbytes: Size in bytes.
    """

    record: str
    dtype: torch.dtype
    nbytes: int


@dataclass(frozen=True)
class View:
    """Tensor in a storage.

    Attributes:
        storage: Storage of its elements.
        dtype: Dtype.
        offset: Offset of its first element, in elements.
        shape: Shape.
        stride: Stride, in elements.
    """

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> tuple[int, int]:
        """First byte in the storage, and the byte after the last."""
        # strides may skip or repeat elements: the last element lies at the sum of (n - 1) * stride
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) + 1 if self.nbytes else 0
        return self.offset * self.dtype.itemsize, (self.offset + reach) * self.dtype.itemsize


def to_tensor(view: View, data: bytearray) -> torch.Tensor:
    """Return the tensor of `view`, contiguous and with memory of its own; `data` are the bytes of its span."""
    return torch.frombuffer(data, dtype=view.dtype).as_strided(view.shape, view.stride).contiguous()


def unpickle_tensors(stream: Readable, where: str, storage: Callable[[Any], Storage]) -> Any:
    """Load the object of a pickle of `torch.save`, with a `View` for every tensor.

    Args:
        stream: Stream of the pickle.
        where: File name for messages.
        storage: Maps a persistent id to its storage.

    Raises:
        CheckpointError: If the pickle is damaged or needs a class that is not safe to load.
    """
    return unpickle(stream, where, _ALLOWED, _CONVERT, storage)


class TorchArchive:
    """Zip file that `torch.save` wrote.

    Args:
        file: Open file.

    Attributes:
        root: Object that was saved, with a `View` for every tensor.
        bytes_read: Bytes read so far.
        has_checksums: False if it was written without them (`torch.utils.serialization.config.save.compute_crc32`).

    Raises:
        CheckpointError: If the file is damaged, is not of `torch.save`, or needs a class that is not safe to load.
    """

    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self._records = self._directory()
        self.has_checksums = any(info.CRC for info in self._records.values())
        pickles = [name for name in self._records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or self._records[pickles[0]].file_size > MAX_PICKLE:
            raise CheckpointError(f"{file} is a zip file, but not one of torch.save", hint=DAMAGED)
        self._prefix = pickles[0].removesuffix("data.pkl")
        order = self._prefix + "byteorder"
        small = self._bytes([name for name in (pickles[0], order) if name in self._records])
        if small.get(order, b"little") != b"little":
            raise CheckpointError(f"{file} was written on a big-endian machine", hint="Save it again on another one.")
        self.root = unpickle_tensors(io.BytesIO(small[pickles[0]]), str(file), self._storage)

    def read(self, views: Mapping[str, View]) -> dict[str, torch.Tensor]:
        """Read the tensors of `views`, contiguous, each with memory of its own.

        Raises:
            CheckpointError: If a record differs from its checksum or is not where the zip says.
        """
        spans: dict[str, dict[str, tuple[int, int]]] = {}
        for name, view in views.items():
            spans.setdefault(view.storage.record, {})[name] = view.span
        held = self._read(spans)
        return {name: to_tensor(view, held[name]) for name, view in views.items()}

    def _bytes(self, records: Sequence[str]) -> dict[str, bytearray]:
        return self._read({record: {record: (0, self._records[record].file_size)} for record in records})

    def _read(self, spans: Mapping[str, Mapping[str, tuple[int, int]]]) -> dict[str, bytearray]:
        held = {name: bytearray(last - first) for parts in spans.values() for name, (first, last) in parts.items()}
        # whole records are read in pieces for their checksum; only bytes inside a wanted span are kept
        sums = dict.fromkeys(spans, 0)
        starts = self._starts(sorted(spans, key=lambda record: self._records[record].header_offset))
        for batch in _batches((r, at, n) for r in starts for at, n in _pieces(self._records[r].file_size)):
            data = self._file.read([(starts[record] + at, count) for record, at, count in batch])
            self.bytes_read += sum(map(len, data))
            for (record, at, _), piece in zip(batch, data, strict=True):
                sums[record] = zlib.crc32(piece, sums[record])
                for name, (first, last) in spans[record].items():
                    low, high = max(first, at), min(last, at + len(piece))
                    if low < high:
                        held[name][low - first : high - first] = memoryview(piece)[low - at : high - at]
        self._check(sums)
        return held

    def _check(self, sums: Mapping[str, int]) -> None:
        wrong = [record for record, value in sums.items() if value != self._records[record].CRC]
        if wrong and self.has_checksums:
            raise CheckpointError(f"{self._file}: record {wrong[0]} differs from its checksum", hint=DAMAGED)

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(_Stream(self._file)) as archive:
                self.bytes_read = self._file.size - archive.start_dir
                records = {info.filename: info for info in archive.infolist()}
        except Exception as error:  # zipfile raises many types on a damaged directory
            raise CheckpointError(f"{self._file} is damaged or truncated: {error}", hint=DAMAGED) from error
        for name, info in records.items():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise CheckpointError(f"{self._file}: record {name} is compressed, torch.save never does", hint=DAMAGED)
        return records

    def _starts(self, records: Sequence[str]) -> dict[str, int]:
        offsets = [self._records[record].header_offset for record in records]
        if not all(0 <= offset <= self._file.size - _LOCAL_HEADER for offset in offsets):
            raise CheckpointError(f"{self._file} ends before one of its records", hint=DAMAGED)
        headers = self._file.read([(offset, _LOCAL_HEADER) for offset in offsets])
        self.bytes_read += _LOCAL_HEADER * len(headers)
        # name and extra field of a local header may be longer than in the directory, so each header is read
        starts = {}
        for record, offset, header in zip(records, offsets, headers, strict=True):
            start = offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:]))
            if header[:4] != ZIP_MAGIC or start + self._records[record].file_size > self._file.size:
                raise CheckpointError(f"{self._file}: record {record} is not where the file says", hint=DAMAGED)
            starts[record] = start
        return starts

    def _storage(self, saved_id: Any) -> Storage:
        kind, dtype, key, _, count = saved_id
        storage = Storage(f"{self._prefix}data/{key}", dtype, operator.index(count) * dtype.itemsize)
        if kind != "storage" or self._records[storage.record].file_size != storage.nbytes:
            raise ValueError(f"record {storage.record} is not of {storage.nbytes} bytes")
        return storage


class _Stream(io.RawIOBase):
    """File object of `file` for zipfile."""

    def __init__(self, file: ByteFile) -> None:
        self._file, self._at = file, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if self._at < 0:
            raise ValueError(f"seek to {self._at}")
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(self._file.size - self._at, 0)
        count = left if count < 0 else min(count, left)
        if count > MAX_PICKLE:
            raise ValueError(f"a directory of {count} bytes")
        data = bytes(self._file.read([(self._at, count)])[0])
        self._at += count
        return data


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    return ((at, min(_PIECE, size - at)) for at in range(0, size, _PIECE))


def _batches(pieces: Iterator[tuple[str, int, int]]) -> Iterator[list[tuple[str, int, int]]]:
    batch: list[tuple[str, int, int]] = []
    size = 0
    for piece in pieces:
        if size + piece[2] > _PIECE and batch:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece[2]
    if batch:
        yield batch


def _view(
    storage: Storage, offset: int, shape: Sequence[int], stride: Sequence[int], *rest: Any, dtype: torch.dtype
) -> View:
    if len(rest) > 2 and rest[2]:
        raise ValueError("a conjugated or negated tensor")
    view = View(
        storage, dtype, operator.index(offset), tuple(map(operator.index, shape)), tuple(map(operator.index, stride))
    )
    if min(view.offset, *view.shape, *view.stride, 0) < 0:
        raise ValueError(f"a tensor of shape {list(shape)} and stride {list(stride)}")
    if view.span[1] > storage.nbytes or view.nbytes > max(storage.nbytes, _MAX_EXPANDED):
        raise ValueError(f"a tensor of shape {list(shape)} outside of its {storage.nbytes} bytes")
    return view


def _tensor_v2(storage: Storage, offset: int, shape: Sequence[int], stride: Sequence[int], *rest: Any) -> View:
    return _view(storage, offset, shape, stride, *rest, dtype=storage.dtype)


def _tensor_v3(
    storage: Storage, offset: int, shape: Sequence[int], stride: Sequence[int], grad: Any, hooks: Any, dtype: Any,
    *rest: Any,
) -> View:  # fmt: skip
    return _view(storage, offset, shape, stride, grad, hooks, *rest, dtype=dtype)


def _first(data: Any, *rest: Any) -> Any:
    return data


def _subclass(function: Callable[..., Any], kind: Any, args: Any, state: Any) -> Any:
    return function(*args)


_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": dict,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch.Size": tuple,
    "torch.device": Inert,
    "torch.Tensor": Inert,
    "torch.nn.parameter.Parameter": Inert,
    "torch.nn.parameter.Buffer": Inert,
    "torch.storage.UntypedStorage": torch.uint8,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
}
