"""Lock between processes; those who wait are told who holds it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

SILENT_WAIT = 10.0  # seconds of waiting before a message


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at `path`; after some seconds of waiting, log which process holds it. Ctrl-C ends the wait.

    A killed process holds no lock. Its holder is noted in a file beside it, since everyone who asks for the lock
    empties the lock's own file.

    Args:
        path: File of the lock, in a folder that exists.
        what: What the holder does, for the message: "downloads the same file".
    """
    lock, holder = FileLock(path, mode=0o666), path.with_name(f"{path.name}.holder")
    try:
        lock.acquire(timeout=SILENT_WAIT)
    except Timeout:
        logging.getLogger(__name__).warning(
            "waiting for %s, which %s; Ctrl-C gives up, and what is done is kept", _said(holder), what
        )
        lock.acquire()
    try:
        with suppress(OSError):  # only a message depends on it
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.release()


def _said(holder: Path) -> str:
    try:
        return holder.read_text()[:200] or "another process"
    except (OSError, ValueError):
        return "another process"
