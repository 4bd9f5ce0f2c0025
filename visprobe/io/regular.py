"""Reading files that somebody named: regular ones alone, and none larger than it can be."""

from __future__ import annotations

import stat
from pathlib import Path

WRITTEN = 1 << 20  # bytes of a file that people write: a recipe, a configuration; pyyaml takes a second for half of it
IMAGE = 64 << 20  # bytes of an image file: those of 64 Mpx have that many


class Unfit(OSError):
    """A file that is not read because of what it is; as text the reason alone, which Python would put in brackets."""

    def __str__(self) -> str:
        return str(self.strerror)


def check_regular(path: Path, most: int | None = None) -> None:
    """Refuse what would hang or fill the memory when it is read: a pipe, a device, a file of more than `most` bytes.

    Raises:
        OSError: If `path` is not there, or is such a file; its `strerror` says why.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or a socket"
        raise Unfit(0, f"it is {what}, and no file", str(path))
    if most is not None:
        check_size(status.st_size, path, most)


def check_size(size: int, path: Path, most: int = IMAGE) -> None:
    """Refuse what has more than `most` bytes; raises OSError as `check_regular` does."""
    if size > most:
        raise Unfit(0, f"it has {size:,} bytes, and at most {most:,} are read", str(path))


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The bytes of the file at `path`; raises OSError as `check_regular` does."""
    check_regular(path, most)
    return path.read_bytes()


def read_text(path: Path, most: int | None = WRITTEN, encoding: str = "utf-8") -> str:
    """The text of the file at `path`; lines end as Python has them.

    Raises:
        OSError: As `check_regular` does.
        ValueError: If it is no text in this encoding.
    """
    check_regular(path, most)
    return path.read_text(encoding)
