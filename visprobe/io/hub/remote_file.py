"""File on the hub of which only requested byte ranges are downloaded, each of them once."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.utils import build_hf_headers, tqdm  # type: ignore[attr-defined]

from visprobe.errors import CheckpointError
from visprobe.io.hub.errors import TransportError, offline, seconds_to_wait, translate_hub_errors
from visprobe.io.hub.range_cache import RangeCache, Span, coalesce, split

_CONNECTIONS = 4
_PIECE = 32 << 20  # bytes per request, and most that a killed process loses per connection
_PROGRESS = 1 << 20  # bytes after which earlier failures of a connection are forgotten
_LONG = 64 << 20  # bytes from which on a progress bar is shown


@dataclass(frozen=True)
class RemoteAddress:
    """Identity of a remote file's content.

    Attributes:
        repo: Model id.
        url: Address of the file, commit included.
        commit: Commit hash.
        etag: Address of the content, as the hub gives it, without quotes.
        size: Bytes of the file.
    """

    repo: str
    url: str
    commit: str
    etag: str
    size: int


class _NoRanges(Exception):
    """Error for a server that sends whole files only."""


class _Cut(TransportError):  # type: ignore[misc]  # its base is httpx's or httpx2's
    """Error for a connection that ended before the last byte."""


class RemoteFile:
    """File on the hub; its ranges are read through a cache on this machine.

    Args:
        name: Name for messages: "model.safetensors of org/name@main".
        address: Identity of the content.
        cache: Cached ranges.
        notes: List that warnings for the reader are added to.
    """

    def __init__(self, name: str, address: RemoteAddress, cache: RangeCache, notes: list[str]) -> None:
        self.size = address.size
        self._name = name
        self._address = address
        self._cache = cache
        self._notes = notes
        self._whole = False

    def __str__(self) -> str:
        return self._name

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        """Read the bytes of each (offset, count), in the order given; missing ranges are downloaded first.

        Raises:
            CheckpointError: If a range cannot be read in full, or the file on the hub has changed.
        """
        wanted = [(offset, offset + count) for offset, count in ranges]
        if any(start < 0 or end > self.size for start, end in wanted):
            raise CheckpointError(f"{self} has only {self.size} bytes", hint="The checkpoint is damaged or incomplete.")
        with translate_hub_errors(str(self), self._address.repo):
            if self._cache.missing(wanted):
                with self._cache.locked():
                    self._fetch(coalesce(self._cache.missing(wanted)))
            return self._cache.read(ranges)

    def _fetch(self, spans: list[Span]) -> None:
        if spans and constants.HF_HUB_OFFLINE:
            raise offline(str(self))
        total = sum(end - start for start, end in spans)
        disable = None if total >= _LONG else True  # None shows the bar on terminals only
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=str(self), disable=disable, leave=False)  # type: ignore[no-untyped-call]
        with bar:
            try:
                if not self._whole:
                    self._fetch_pieces(split(spans, _PIECE), bar)
            except _NoRanges:
                self._whole = True
                self._notes.append(f"{self} is read from its first byte on: its server sends no byte ranges.")
                bar.reset()
            finally:
                self._cache.flush()
            if self._whole:
                self._fetch_whole(spans, bar)

    def _fetch_pieces(self, pieces: list[Span], bar: Any) -> None:
        stop = threading.Event()
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            futures = [pool.submit(self._fetch_piece, piece, bar, stop) for piece in pieces]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        for error in [future.exception() for future in futures if not future.cancelled()]:
            if error:
                raise error

    def _fetch_piece(self, piece: Span, bar: Any, stop: threading.Event) -> None:
        position, end = piece
        failures = 0
        while position < end and not stop.is_set():
            # a retry continues at `position`: bytes that arrived are written already
            before = position
            try:
                with closing(self._stream(position, end)) as chunks:
                    for chunk in chunks:
                        self._cache.write(position, chunk)
                        position += len(chunk)
                        bar.update(len(chunk))
                        if stop.is_set():
                            return
            except TransportError as error:
                failures = 1 if position - before >= _PROGRESS else failures + 1
                stop.wait(seconds_to_wait(error, failures))
        if position == end:
            self._cache.finish(piece)

    def _fetch_whole(self, spans: list[Span], bar: Any) -> None:
        failures = 0
        while spans := self._cache.missing(spans):
            try:
                self._sift(spans, bar)
            except TransportError as error:
                failures += 1
                self._cache.flush()
                time.sleep(seconds_to_wait(error, failures))

    def _sift(self, spans: list[Span], bar: Any) -> None:
        position, left = 0, list(spans)
        with closing(self._stream(0, self.size, whole=True)) as chunks:
            for chunk in chunks:
                end = position + len(chunk)
                # only the parts of the chunk that a wanted span covers are written
                while left and left[0][0] < end:
                    first, last = max(left[0][0], position), min(left[0][1], end)
                    self._cache.write(first, chunk[first - position : last - position])
                    bar.update(last - first)
                    if last < left[0][1]:
                        break
                    self._cache.finish(left.pop(0))
                if not left:
                    break
                position = end
        self._cache.flush()

    def _stream(self, start: int, end: int, *, whole: bool = False) -> Generator[bytes]:
        headers = build_hf_headers(library_name="visprobe") | {"Accept-Encoding": "identity"}
        if not whole:
            headers["Range"] = f"bytes={start}-{end - 1}"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        url = self._address.url
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            hf_raise_for_status(response)
            self._check_content(response)
            self._check_range(response, start, end, whole)
            left = end - start
            for chunk in response.iter_raw():
                left -= len(chunk)
                if left < 0:
                    raise self._wrong("more bytes than it was asked for")
                yield chunk
            if left:
                raise _Cut(f"the connection ended {left} bytes early")

    def _check_content(self, response: Any) -> None:
        hops = [*response.history, response]
        linked = [hop.headers["X-Linked-Etag"] for hop in hops if "X-Linked-Etag" in hop.headers]
        if not linked and len(hops) == 1:
            linked = [response.headers.get("ETag", self._address.etag)]  # a redirect's storage has its own tags
        commits = {hop.headers["X-Repo-Commit"] for hop in hops if "X-Repo-Commit" in hop.headers}
        if any(plain_etag(tag) != self._address.etag for tag in linked) or commits - {self._address.commit}:
            raise CheckpointError(
                f"{self} changed on the hub while it was read", hint="Run again, with a commit after the @."
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._wrong("a compressed body")

    def _check_range(self, response: Any, start: int, end: int, whole: bool) -> None:
        if response.status_code == 200 and not whole:
            raise _NoRanges
        if response.status_code != (200 if whole else 206):
            raise self._wrong(f"status {response.status_code}")
        answered = response.headers.get("Content-Range")
        if not whole and answered != f"bytes {start}-{end - 1}/{self.size}":
            raise self._wrong(f"the range {answered!r} instead of bytes {start}-{end - 1}/{self.size}")
        if int(response.headers.get("Content-Length", end - start)) != end - start:
            raise self._wrong(f"{response.headers['Content-Length']} bytes instead of {end - start}")

    def _wrong(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self} cannot be read: the server sent {what}",
            hint="Check HF_ENDPOINT and the proxy in between; `hf download` fetches the whole checkpoint instead.",
        )


def plain_etag(tag: str) -> str:
    """Return the address of the content in an ETag header: without the mark of weak tags and the quotes."""
    return tag.removeprefix("W/").strip('"')
