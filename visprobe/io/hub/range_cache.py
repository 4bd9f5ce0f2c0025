"""Cache of byte ranges of large remote files, stored under the content's own address."""

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

_FLUSH_BYTES = 8 << 20  # bytes that a crash may lose; a flush takes tens of milliseconds
_LARGEST_GAP = 1 << 20  # a wider gap takes longer to read than another request takes
_GAP_SHARE = 0.01  # of the requested bytes
_BLOCK = 1 << 24  # bytes hashed at a time


def union(spans: Iterable[Span]) -> list[Span]:
    """Merge `spans` into as few as possible, sorted."""
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def subtract(wanted: Iterable[Span], had: Iterable[Span]) -> list[Span]:
    """Return the bytes of `wanted` that are not in `had`, sorted, as few spans as possible."""
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
    """Merge spans for fewer requests: the smallest gaps are read too, in all at most 1 % of the requested bytes."""
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
    """Split `spans` into pieces of at most `size` bytes."""
    return [(at, min(at + size, end)) for start, end in spans for at in range(start, end, size)]


class RangeCache:
    """Cached ranges of one remote file: a sparse file with the remote's offsets, and a list of ranges.

    A range enters the list only after its bytes are on the disk, so listed ranges are whole after any crash. The
    list has a hash of each range, which is compared before the range is used, once per object: damaged bytes
    count as missing. Several processes may read at once; a writer holds `locked()`.

    Args:
        folder: Folder of both files; its name is the address of the content.
        size: Bytes of the remote file.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self._folder = folder
        self._data, self._list = folder / "data", folder / "ranges.json"
        self._descriptor = -1
        self._pending: list[Span] = []
        self._compared: dict[Kept, bool] = {}  # True if the bytes of a range match its hash
        self._guard = threading.Lock()

    def missing(self, wanted: Iterable[Span]) -> list[Span]:
        """Return the bytes of `wanted` that are absent or damaged, sorted, as few spans as possible."""
        wanted = union(wanted)
        touched = [kept for kept in self._kept() if subtract(wanted, [(kept[0], kept[1])]) != wanted]
        return subtract(wanted, [(kept[0], kept[1]) for kept in touched if self._is_whole(kept)])

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        """Read the bytes of each (offset, count), all of which must be cached."""
        return LocalFile(self._data).read(ranges) if ranges else []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to write; waits while another process holds it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / "lock", f"downloads the same file to {self._folder}"):
            self._descriptor = os.open(self._data, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                yield
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def write(self, offset: int, chunk: bytes) -> None:
        """Write `chunk` at `offset`; it counts as missing until `finish`."""
        view = memoryview(chunk)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def finish(self, span: Span) -> None:
        """Mark all bytes of `span` as written."""
        with self._guard:
            self._pending.append(span)
            if sum(end - start for start, end in self._pending) >= _FLUSH_BYTES:
                self._flush()

    def flush(self) -> None:
        """Sync all finished ranges to disk, then add them to the list."""
        with self._guard:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        # data before list: a crash in between loses ranges, but never lists one that is not on the disk
        os.ftruncate(self._descriptor, self.size)
        os.fsync(self._descriptor)
        new = [(start, end, hash_of(self._data, (start, end))) for start, end in union(self._pending)]
        had = [kept for kept in self._kept() if self._compared.get(kept, True)]  # damaged ranges were fetched again
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
    """Load the size of the remote file and its cached ranges from a list.

    Raises:
        FileNotFoundError: If there is no list.
        ValueError, TypeError, KeyError: If it is damaged, or names bytes beyond the end of the file.
    """
    content = json.loads(path.read_bytes())
    ranges = [(int(start), int(end), str(noted)) for start, end, noted in content["ranges"]]
    size = int(content["size"])
    if any(not 0 <= start <= end <= size for start, end, _ in ranges):
        raise ValueError("it names bytes beyond the end")
    return size, ranges


def hash_of(data: Path, span: Span) -> str:
    """Return the SHA-256 of the bytes of `span`, which are read in pieces."""
    digest, (at, end) = hashlib.sha256(), span
    with data.open("rb") as file:
        file.seek(at)
        while at < end and (block := file.read(min(_BLOCK, end - at))):
            digest.update(block)
            at += len(block)
    return digest.hexdigest()


def has_address(path: Path, address: str) -> bool:
    """Return whether a whole file has its address on the hub: SHA-256 of large files, git's SHA-1 of small ones."""
    size = path.stat().st_size
    digest = hashlib.sha1(f"blob {size}\0".encode()) if len(address) == 40 else hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == address
