"""Arrays of integers on disk with their SHA-256 in front, so that damaged ones are never used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SEAL = 4  # int64 elements that hold a SHA-256


def save_sealed(path: Path, values: NDArray[np.int64]) -> None:
    """Write `values`, int64 of shape (n,), as a .npy file at `path`; atomicity is up to the caller."""
    np.save(path, np.concatenate([_seal(values), values]))


def load_sealed(path: Path) -> NDArray[np.int64]:
    """Load what `save_sealed` wrote, int64 of shape (n,), as a view of the file.

    Raises:
        OSError: If it cannot be read.
        # the whole file is read once for the hash; the view itself costs no memory
        ValueError: If it is damaged, or another file.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python, which fails in many ways
        raise ValueError(f"its header is damaged: {error}") from error
    if stored.dtype != np.int64 or stored.ndim != 1 or len(stored) < _SEAL:
        raise ValueError("it holds no row of whole numbers")
    values: NDArray[np.int64] = stored[_SEAL:]
    if not np.array_equal(stored[:_SEAL], _seal(values)):
        raise ValueError("its numbers have another hash than was noted")
    return values


def _seal(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.frombuffer(hashlib.sha256(np.ascontiguousarray(values).data).digest(), np.int64)
