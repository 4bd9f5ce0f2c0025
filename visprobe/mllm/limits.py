"""Limits on what something of others may take, such as a chat template, which is a program."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PAGES = Path("/proc/self/statm")  # its first number: pages of memory that the process has asked for


class TooLong(Exception):
    """What was done took longer than it may."""


@contextmanager
def within(seconds: float, memory: int) -> Iterator[None]:
    """Stop what is done inside after so many seconds of wall time, or when it asks for so many bytes more.

    In another thread than the main one, which alone gets signals, there is no limit, and where the system does not tell
    how much memory is in use, none of memory.

    Raises:
        TooLong: If it took too long.
        MemoryError: If it asked for too much.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLong

    handler = signal.signal(signal.SIGALRM, stop)
    room = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError):
        asked = int(_PAGES.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (asked + memory, room[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, room)
