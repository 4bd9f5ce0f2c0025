"""A limit on how long something of others may take, such as a chat template, which is a program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooLong(Exception):
    """What was done took longer than it may."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Stop what is done inside after so many seconds of wall time; in another thread than the main one, never.

    Raises:
        TooLong: If it was stopped.
    """
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield
        return

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
