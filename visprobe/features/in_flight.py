"""Bound on the memory of images between their files and their pixels, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from visprobe.data.image_set import LARGE, pixels_in

ROOM = 280_000_000  # bytes: one image of 64 Mpx, or two of a phone's camera
_DECODED = 4  # bytes per pixel in Pillow
_PROCESSED = 14  # peak bytes per pixel in a processor of transformers, measured
_REDUCED = 20_000_000  # bytes of the smaller copy that is made of a large image


def memory_of(data: bytes) -> int:
    """Estimate the bytes that an image file takes while it becomes pixels."""
    pixels = pixels_in(data)
    return len(data) + (_DECODED * pixels + _REDUCED if pixels > LARGE else _PROCESSED * pixels)


class Room:
    """Bytes shared by threads: a request waits until it fits, and one larger than the whole runs alone."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        """Hold `needed` bytes."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + needed <= self._size)
            self._taken += needed
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()
