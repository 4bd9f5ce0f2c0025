"""A lock between processes whose holder is known to those who wait for it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

SILENT_WAIT = 10.0  # seconds before who waits says so


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at `path`; who waits for it says after some seconds for which process. Ctrl-C gives the wait up.

    The lock goes with its holder: one that is killed holds nothing. Whose it is stands in a file beside it, since the
    lock's own is emptied by everyone who asks for it.

    Args:
        path: The lock's file; its folder is there.
        what: What is done while it is held, for the message.
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
