"""Atomic writing that survives kill -9: a file or folder is either the old one, the new one, or absent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visprobe.io.disk import writing

MARK = ".visprobe-tmp-"  # in the name of every temporary file and folder
ABANDONED = 3600.0  # seconds without a write after which a temporary file counts as left behind
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_WRITER = re.compile(f"{re.escape(MARK)}([0-9a-f]{{8}})-([0-9]+)-[0-9a-f]{{12}}")
# Control and bidirectional characters beyond those that JSON escapes by itself, and lone surrogates: a file name that
# holds them neither steers a terminal that shows the JSON nor makes it unwritable.
_UNSEEN = re.compile(
    "[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\U000e0000-\U000e0fff]"
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, file or folder.

    The temporary name is unique per writer, so two processes never share one. On any exception the
    temporary file is removed and `path` is left as it was.

    Raises:
        PrerequisiteError: If the disk is full, whichever library raised the error.
    """
    temporary = path.parent / f".{path.name[:100]}{MARK}{_writer()}{path.suffix[:20]}"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _open_up(temporary)
            # content reaches the disk before its name does, and the name before success is reported
            _sync(temporary)
            if temporary.is_dir() and path.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Make `folder` and yield a temporary folder inside it; on success its files move up into `folder`.

    `folder` itself is never replaced: it may be a mount point, or the current directory. On any exception what was
    written is removed.

    Raises:
        PrerequisiteError: If the disk is full, whichever library raised the error.
    """
    made = not folder.exists()
    temporary = folder / f".new{MARK}{_writer()}"
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            temporary.mkdir()
            yield temporary
            _open_up(temporary)
            for path in temporary.iterdir():
                os.replace(path, folder / path.name)
            _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def is_filled(folder: Path) -> bool:
    """Return whether `folder` holds anything but leftovers of a killed writer."""
    return folder.exists() and any(MARK not in path.name for path in folder.iterdir())


def _writer() -> str:
    """Return an id of the writer of a temporary file: machine, process and a random part."""
    return f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _is_left(path: Path) -> bool:
    """Return whether a temporary file has no writer: its process is gone, or of another machine and long silent."""
    named = _WRITER.search(path.name)
    if named is None:
        return True  # name from a version that did not record its writer
    if named[1] != _HOST:
        return time.time() - path.stat().st_mtime > ABANDONED
    try:
        os.kill(int(named[2]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # the process runs, as another user
        return False
    return False


def _open_up(path: Path) -> None:
    """Give files the permissions of this user's new files: some libraries write with private ones."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~_UMASK)


def _umask() -> int:
    """Return the umask of this user; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON (no NaN, no Infinity) to `path` atomically.

    Raises:
        ValueError: If `value` holds a number that JSON cannot hold.
    """
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Format `value` as indented strict JSON, with invisible characters escaped; NaN and Infinity raise ValueError."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return _UNSEEN.sub(lambda match: json.dumps(match[0])[1:-1], text)


def remove_leftovers(folder: Path) -> int:
    """Delete temporary files that a killed writer left in `folder`, and return how many; live writers keep theirs."""
    leftovers = [path for path in folder.glob(f".*{MARK}*") if _is_left(path)]
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)


_UMASK = _umask()  # read while the program starts, before there are threads that could write meanwhile
