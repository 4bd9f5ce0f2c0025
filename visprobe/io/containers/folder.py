"""Interface to a checkpoint's files: a folder on this machine, or one that can be read as if it were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from visprobe.errors import CheckpointError
from visprobe.io.regular import DAMAGED


class ByteFile(Protocol):
    """Large file of which byte ranges are read. Its `str` is its name in messages.

    Attributes:
        size: Bytes of the whole file.
    """

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        ...

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        """Read the bytes of each (offset, count), in the order given.

        Raises:
            CheckpointError: If a range cannot be read in full.
        """
        ...


class Folder(Protocol):
    """Folder of a checkpoint. Its `str` is what the user typed.

    Attributes:
        notes: Warnings for the reader, one sentence each; grows while files are read.
        commit: Commit that is read, for a folder on the hub; empty for one on this machine.
    """

    notes: list[str]
    commit: str

    @property
    def path(self) -> Path:
        """Local folder of the small files (`*.json`): configuration, processor, index of shards."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files, relative to the folder, with "/" between parts, sorted."""
        ...

    def open(self, name: str) -> ByteFile:
        """Open file `name` for reading ranges of it.

        Raises:
            CheckpointError: If there is no such file.
        """
        ...

    def fetch(self, name: str) -> Path:
        """Return the path of file `name`, whole and on this machine.

        Raises:
            CheckpointError: If there is no such file.
        """
        ...


class LocalFile:
    """File on this machine.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size

    def __str__(self) -> str:
        return str(self.path)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytearray]:
        """Read the bytes of each (offset, count), in the order given; nothing around them is read.

        Raises:
            CheckpointError: If the file ends before a range does.
        """
        read = []
        with self.path.open("rb", buffering=0) as stream:
            for offset, count in ranges:
                data = bytearray(count)
                view, done = memoryview(data), 0
                stream.seek(offset)
                while done < count:  # an unbuffered read returns at most 2 GiB on Linux
                    step = stream.readinto(view[done:])
                    if not step:
                        raise CheckpointError(f"{self} ends before byte {offset + count}", hint=DAMAGED)
                    done += step
                read.append(data)
        return read


class LocalFolder:
    """Folder on this machine.

    Args:
        path: Path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commit = ""
        self.notes: list[str] = []

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """Return files of the folder itself and of the folders in it, three levels deep."""
        found = [p for pattern in ("*", "*/*", "*/*/*", "*/*/*/*") for p in self.path.glob(pattern) if p.is_file()]
        return sorted(p.relative_to(self.path).as_posix() for p in found)

    def open(self, name: str) -> LocalFile:
        """Open file `name` for reading ranges of it."""
        return LocalFile(self.fetch(name))

    def fetch(self, name: str) -> Path:
        """Return the path of file `name`.

        Raises:
            CheckpointError: If there is no such file.
        """
        path = self.path / name
        if not path.is_file():
            raise CheckpointError(f"{self.path} has no file {name}", hint=DAMAGED)
        return path
