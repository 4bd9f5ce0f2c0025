"""Errors of reading and writing files, turned into messages for the user; a full disk has exit code 4."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from visprobe.errors import PrerequisiteError, VisprobeError

# EFBIG: the file reached the size limit of the file system or of the shell.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Messages of safetensors, and of torch when it writes a .pt file, for the same errors.
_NO_ROOM_IN_WORDS = re.compile(
    r"os error (28|122|27)\b|No space left|quota exceeded|unexpected pos \d+ vs|PytorchStreamWriter|iostream error"
)
_AGAIN = "the same command goes on from what is done."
_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_disk_full(error: BaseException) -> bool:
    """Return whether `error` means that a disk is full, whichever library raised it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _NO_ROOM
    return isinstance(error, Exception) and bool(_NO_ROOM_IN_WORDS.search(str(error)))


def translate_os_error(error: Exception, where: str | Path = "") -> VisprobeError:
    """Turn an error of the system into one that a user can act on.

    Args:
        error: An `OSError`, or an error for which `is_disk_full` is true.
        where: Path that was being written, if the error does not name it.
    """
    name = str(where or getattr(error, "filename", None) or "")
    if is_disk_full(error):
        return PrerequisiteError(
            f"the disk is full: {name} cannot be written" if name else f"the disk is full ({error})",
            hint=f"Make room there, or name a folder on another disk (VISPROBE_CACHE for the caches); {_AGAIN}",
        )
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    kind = PrerequisiteError if getattr(error, "errno", None) in _NOT_ALLOWED else VisprobeError
    return kind(
        f"{name}: {said}" if name else said,
        hint="Check the path, its permissions and the room on its disk; VISPROBE_DEBUG=1 shows where it happened.",
    )


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Name the file for which there was no room, whichever library was writing it; all other errors pass.

    Raises:
        PrerequisiteError: If the disk is full.
    """
    try:
        yield
    except VisprobeError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise translate_os_error(error, where) from error
        raise


def plain_errors(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Wrap `function` to raise `VisprobeError` where the system does not let it read or write."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            raise translate_os_error(error) from error

    return call


def size_text(count: float) -> str:
    """Format a number of bytes for people: "1.2 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
