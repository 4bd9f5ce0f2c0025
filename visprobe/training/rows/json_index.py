"""Random access to the records of a JSON array or of JSON Lines, by byte offsets found once.

A file is decoded as Latin-1 while it is indexed: one byte is one character, so character offsets are byte offsets,
and every structural character of JSON is ASCII. Records themselves are decoded as UTF-8.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from visprobe.errors import DataError, PrerequisiteError
from visprobe.io.atomic import replacing
from visprobe.io.cache import cache_folder
from visprobe.io.regular import check_regular
from visprobe.io.sealed_array import load_sealed, save_sealed

VERSION = 2
WINDOW = 1 << 22
MAX_RECORD = 1 << 26  # 64 MiB: the search for a closing brace must not read a whole damaged file into memory
BOM = b"\xef\xbb\xbf"
SPACE = " \t\n\r"
Kind = Literal["array", "lines"]
_DECODER = json.JSONDecoder(strict=False)  # captions hold raw tabs and newlines


class JsonIndex:
    """Records of one JSON file, found by byte offset.

    The offsets are cached in the user's cache folder under the hash of the file's content, so they survive moving the
    file and never outlive a change of it.

    Args:
        path: JSON array of objects, or JSON Lines.

    Attributes:
        path: The file.
        sha256: SHA-256 of its content, in hex.

    Raises:
        DataError: If the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_regular(path)
            with path.open("rb") as file:
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._starts = _cached(path, self.sha256)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", hint="Check the path and its rights.") from error

    def __len__(self) -> int:
        return len(self._starts) - 1

    def record(self, index: int) -> Any:
        """Parse the record at `index`.

        Raises:
            ValueError: If the record is damaged.
        """
        text = self.text(index)
        value, end = _DECODER.raw_decode(text)
        if text[end:].strip(SPACE + ",]"):
            raise ValueError("text after the record")
        return value

    def text(self, index: int) -> str:
        """Return the record at `index` as it stands in the file, perhaps with a separator after it.

        Raises:
            ValueError: If it is not UTF-8.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, stop = int(self._starts[index]), int(self._starts[index + 1])
        with self.path.open("rb") as file:  # opened each time: processes and threads must not share a file position
            file.seek(start)
            return file.read(stop - start).decode()


def _cached(path: Path, sha256: str) -> NDArray[np.int64]:
    kind = _kind(path)
    cache = cache_folder("json-index") / f"{sha256}-{kind}-{VERSION}.npy"
    try:
        return load_sealed(cache)
    except (OSError, ValueError):  # not there yet, or damaged
        starts = find_starts(path, kind)
    try:
        with replacing(cache) as temporary:
            save_sealed(temporary, starts)
    except (OSError, PrerequisiteError):  # full or read-only home: the offsets are found again next time
        pass
    return starts


def _kind(path: Path) -> Kind:
    with path.open("rb") as file:
        head = file.readline(MAX_RECORD).removeprefix(BOM).lstrip()
    if path.suffix == ".jsonl":
        return "lines"
    if head.startswith(b"{"):
        try:
            json.loads(head)
            return "lines"
        except ValueError as error:
            raise DataError(
                f"{path} holds one JSON object, not a list of rows",
                hint="visprobe reads a JSON array of rows, or JSON Lines with one row per line.",
            ) from error
    return "array"


def find_starts(path: Path, kind: Kind, window: int = WINDOW) -> NDArray[np.int64]:
    """Find the byte offsets of the records of `path`.

    Args:
        path: The file.
        kind: "array" for one JSON array, "lines" for JSON Lines (blank lines are no records).
        window: Bytes read at a time.

    Returns:
        int64 of shape (records + 1,): start of each record, then end of the last.

    Raises:
        DataError: If an array is damaged; the message names the offset. Damaged lines are found when they are read.
    """
    with path.open("rb") as file:
        start = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(start)
        found = _lines(file, start) if kind == "lines" else _Scanner(path, file, start, window).starts()
        return np.frombuffer(array("q", found), np.int64)


def _lines(file: BinaryIO, at: int) -> Iterator[int]:
    for line in file:
        if not line.isspace():
            yield at
        at += len(line)
    yield at


class _Scanner:
    """Window that slides over a JSON array; `base + at` is its position in the file."""

    def __init__(self, path: Path, file: BinaryIO, base: int, window: int) -> None:
        self._path, self._file, self._base, self._window = path, file, base, window
        self._text, self._at = "", 0

    def starts(self) -> Iterator[int]:
        self._expect("[")
        if self._next() == "]":
            self._at += 1
        else:
            yield from self._records()
        yield self._base + self._at
        if self._next():
            raise self._damaged("text after the end of the array")

    def _records(self) -> Iterator[int]:
        while True:
            self._next()
            yield self._base + self._at
            self._skip_value()
            if self._expect(",]") == "]":
                return

    def _next(self) -> str:
        """Return the next non-space character, "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _expect(self, characters: str) -> str:
        found = self._next()
        if not found or found not in characters:
            raise self._damaged(f"expected {' or '.join(characters)}, found {found or 'the end of the file'}")
        self._at += 1
        return found

    def _skip_value(self) -> None:
        while True:
            reason = "the file ends after this record, not after the array"
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
                # A number that touches the end of the window may continue after it.
                if end < len(self._text) and self._text[end] in SPACE + ",]":
                    self._at = end
                    return
            except json.JSONDecodeError as error:
                reason = error.msg
            except RecursionError as error:
                raise self._damaged("nested too deeply") from error
            if len(self._text) - self._at > MAX_RECORD or not self._more():
                raise self._damaged(reason)

    def _more(self) -> bool:
        """Drop the text before `at` and read on, at least doubling it, so that long records take linear time."""
        self._base += self._at
        self._text, self._at = self._text[self._at :], 0
        data = self._file.read(max(self._window, len(self._text)))
        self._text += data.decode("latin-1")
        return bool(data)

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"{self._path} is no JSON array at byte {self._base + self._at}: {reason}",
            hint="The file is damaged or was cut off; download or write it again.",
        )
