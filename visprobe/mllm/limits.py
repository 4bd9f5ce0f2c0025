"""Limits on time and memory of untrusted work, such as a chat template, which is a program."""

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
    """Error of work that exceeds its time limit."""


@contextmanager
def within(seconds: float, memory: int) -> Iterator[None]:
    """Stop the block after `seconds` of wall time, or when it allocates more than `memory` further bytes.

    There is no limit outside the main thread, which alone receives signals, and no memory limit where the system
    does not report memory use.

    Raises:
        TooLong: If the block takes too long.
        MemoryError: If it allocates too much.
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
