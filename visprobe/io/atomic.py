"""Writing that survives kill -9: a file or folder is either the old one, the new one, or absent."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = ".visprobe-tmp-"  # in the name of every temporary file and folder
# Control and bidirectional characters beyond those that JSON escapes by itself, and lone surrogates: a file name that
# holds them neither steers a terminal that shows the JSON nor makes it unwritable.
_UNSEEN = re.compile(
    "[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\U000e0000-\U000e0fff]"
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, file or folder.

    The temporary name is unique per writer, so two processes never share one. On any exception the
    temporary file is removed and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:100]}{MARK}{uuid.uuid4().hex[:12]}{path.suffix[:20]}"
    try:
        yield temporary
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
    """Yield a temporary folder inside `folder`, which is made; on success its files move up into `folder`.

    `folder` itself is never replaced: it may be a mount point, or where the caller stands. On any exception what was
    written is removed.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    temporary = folder / f".new{MARK}{uuid.uuid4().hex[:12]}"
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            os.replace(path, folder / path.name)
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def is_filled(folder: Path) -> bool:
    """Whether `folder` holds something, leftovers of a killed writer aside."""
    return folder.exists() and any(MARK not in path.name for path in folder.iterdir())


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
    """`value` as indented strict JSON, what cannot be seen as JSON's own escapes; NaN and Infinity raise ValueError."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return _UNSEEN.sub(lambda match: json.dumps(match[0])[1:-1], text)


def remove_leftovers(folder: Path) -> int:
    """Delete temporary files that a killed writer left in `folder`; returns how many."""
    leftovers = [p for p in folder.glob(f".*{MARK}*")]
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)
