"""Rows made of other rows: a selection, or several sources one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visprobe.data.rows import BadRow, Row, Rows


class Selected:
    """Selection of the rows at `indices`, in that order; an index may come twice.

    Args:
        rows: Rows to select from.
        indices: Integers of shape (n,), each in [0, len(rows)).
    """

    def __init__(self, rows: Rows, indices: Sequence[int] | NDArray[np.int64]) -> None:
        self.name = rows.name
        self._rows = rows
        self._indices = np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Row:
        """Return the row at `index`; raises BadRow if it is unusable."""
        return self._rows[int(self._indices[index])]

    def image(self, key: str) -> Image.Image:
        """Return the RGB image of an image key; raises BadRow if it is missing or damaged."""
        return self._rows.image(key)

    def content_hash(self) -> str:
        """Return the SHA-256 over the source's hash and the indices."""
        return hashlib.sha256(self._rows.content_hash().encode() + self._indices.tobytes()).hexdigest()


class Concatenated:
    """Concatenation of several sources; an image key starts with the number of its source.

    Args:
        name: Name of all rows together.
        parts: The sources.
    """

    def __init__(self, name: str, parts: Sequence[Rows]) -> None:
        self.name = name
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Row:
        """Return the row at `index`; raises BadRow if it is unusable."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        local = index - int(self._ends[number]) + len(part)
        try:
            row = part[local]
        except BadRow as error:
            raise BadRow(f"{error}: row {local} of {part.name}") from error
        return replace(row, images=tuple(f"{number}/{key}" for key in row.images))

    def image(self, key: str) -> Image.Image:
        """Return the RGB image of an image key; raises BadRow if it is missing or damaged."""
        number, _, inner = key.partition("/")
        return self.parts[int(number)].image(inner)

    def content_hash(self) -> str:
        """Return the SHA-256 over the hashes of the sources."""
        return hashlib.sha256("\n".join(part.content_hash() for part in self.parts).encode()).hexdigest()
