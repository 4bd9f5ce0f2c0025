"""Byte ranges of large remote files, kept on this machine under the content's own address."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from visprobe.io.atomic import write_json
from visprobe.io.containers.folder import LocalFile
from visprobe.io.lock import locked

Span = tuple[int, int]  # first byte, byte after the last
Kept = tuple[int, int, str]  # a span and the SHA-256 of its bytes

_FLUSH_BYTES = 8 << 20  # finished bytes that a crash may cost; a flush takes tens of milliseconds
_LARGEST_GAP = 1 << 20  # a wider gap takes longer to read than another request takes
_GAP_SHARE = 0.01  # of the bytes wanted
_BLOCK = 1 << 24  # bytes hashed at a time


def union(spans: Iterable[Span]) -> list[Span]:
    """The same bytes as `spans`, sorted, as few spans as possible."""
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def subtract(wanted: Iterable[Span], had: Iterable[Span]) -> list[Span]:
    """The bytes of `wanted` that are not in `had`, sorted, as few spans as possible."""
    missing, had = [], union(had)
    for start, end in union(wanted):
        for first, last in had:
            if last <= start or end <= first:
                continue
            missing.append((start, first))
            start = last
        missing.append((start, end))
    return union(missing)


def coalesce(spans: Sequence[Span]) -> list[Span]:
    """Fewer spans for fewer requests: the smallest gaps are read too, in all at most 1 % of the bytes wanted."""
    spans = union(spans)
    budget = int(_GAP_SHARE * sum(end - start for start, end in spans))
    bridges: list[Span] = []
    gaps = [(end, start) for (_, end), (start, _) in pairwise(spans)]
    for start, end in sorted(gaps, key=lambda gap: gap[1] - gap[0]):
        budget -= end - start
        if budget < 0 or end - start > _LARGEST_GAP:
            break
        bridges.append((start, end))
    return union([*spans, *bridges])


def split(spans: Iterable[Span], size: int) -> list[Span]:
    """`spans` in pieces of at most `size` bytes."""
    return [(at, min(at + size, end)) for start, end in spans for at in range(start, end, size)]


class RangeCache:
    """The ranges of one remote file that are on this machine: a sparse file with the remote's offsets and a list.

    A range enters the list only after its bytes are on the disk, so what the list names is whole after any crash. The
    list notes a hash of each range, which is compared before the range is believed, once per object: damaged bytes
    count as missing. Several processes may read at once; who writes holds `locked()`.

    Args:
        folder: Where both lie; its name is the address of the content.
        size: Bytes of the remote file.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self._folder = folder
        self._data, self._list = folder / "data", folder / "ranges.json"
        self._descriptor = -1
        self._pending: list[Span] = []
        self._compared: dict[Kept, bool] = {}  # whether a range was as its hash says
        self._guard = threading.Lock()

    def missing(self, wanted: Iterable[Span]) -> list[Span]:
        """The bytes of `wanted` that are not here as they were received, sorted, as few spans as possible."""
        wanted = union(wanted)
        touched = [kept for kept in self._kept() if subtract(wanted, [(kept[0], kept[1])]) != wanted]
        return subtract(wanted, [(kept[0], kept[1]) for kept in touched if self._is_whole(kept)])

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        """The bytes of each (offset, count), all of which are here."""
        return LocalFile(self._data).read(ranges) if ranges else []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The right to write; waits while another process has it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / "lock", f"downloads the same file to {self._folder}"):
            self._descriptor = os.open(self._data, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                yield
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def write(self, offset: int, chunk: bytes) -> None:
        """Put `chunk` at `offset`; not believed before `finish`."""
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def finish(self, span: Span) -> None:
        """All bytes of `span` have been written."""
        with self._guard:
            self._pending.append(span)
            if sum(end - start for start, end in self._pending) >= _FLUSH_BYTES:
                self._flush()

    def flush(self) -> None:
        """Put all finished ranges on the disk and into the list."""
        with self._guard:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)
        new = [(start, end, hash_of(self._data, (start, end))) for start, end in union(self._pending)]
        had = [kept for kept in self._kept() if self._compared.get(kept, True)]  # the damaged ones were fetched again
        write_json(self._list, {"size": self.size, "ranges": sorted({*had, *new})})
        self._compared |= dict.fromkeys(new, True)
        self._pending = []

    def _kept(self) -> list[Kept]:
        try:
            size, ranges = listed(self._list)
            return ranges if size == self.size == self._data.stat().st_size else []
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return []

    def _is_whole(self, kept: Kept) -> bool:
        if kept not in self._compared:
            start, end, noted = kept
            self._compared[kept] = hash_of(self._data, (start, end)) == noted
            if not self._compared[kept]:
                logging.getLogger(__name__).warning(
                    "%s is damaged between bytes %d and %d: they are fetched again", self._data, start, end
                )
        return self._compared[kept]


def listed(path: Path) -> tuple[int, list[Kept]]:
    """The size of the remote file, and the ranges of it that a list names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError, TypeError, KeyError: If it is damaged, or names bytes that the file has not.
    """
    content = json.loads(path.read_bytes())
    ranges = [(int(start), int(end), str(noted)) for start, end, noted in content["ranges"]]
    size = int(content["size"])
    if any(not 0 <= start <= end <= size for start, end, _ in ranges):
        raise ValueError("it names bytes beyond the end")
    return size, ranges


def hash_of(data: Path, span: Span) -> str:
    """SHA-256 over the bytes of `span`, which are read in pieces."""
    digest, (at, end) = hashlib.sha256(), span
    with data.open("rb") as file:
        file.seek(at)
        while at < end and (block := file.read(min(_BLOCK, end - at))):
            digest.update(block)
            at += len(block)
    return digest.hexdigest()


def has_address(path: Path, address: str) -> bool:
    """Whether a whole file has its address on the hub: SHA-256 of large files, git's SHA-1 of small ones."""
    size = path.stat().st_size
    digest = hashlib.sha1(f"blob {size}\0".encode()) if len(address) == 40 else hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == address
