"""Rows as a stage needs them: those that can be trained on, and no others."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from visprobe.data.rows import BadRow, Row, Rows
from visprobe.errors import DataError
from visprobe.training.rows.check import Need, fit


class Fitted:
    """Some rows, in the shape that a stage trains on.

    Args:
        rows: The rows as they were read.
        need: What the stage trains on.
        usable: Indices of those that can be trained on, as `survey` finds them; all by default.

    Attributes:
        source: The rows as they were read.
    """

    def __init__(self, rows: Rows, need: Need, usable: Sequence[int] | None = None) -> None:
        self.name = rows.name
        self.source, self._need = rows, need
        self._usable = range(len(rows)) if usable is None else usable

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, index: int) -> Row:
        """The usable row at `index`.

        Raises:
            DataError: If it cannot be read, or not be trained on, any more.
        """
        try:
            return fit(self.source[self._usable[index]], self._need, image_required=False)
        except BadRow as error:
            raise self._changed(error) from error

    def length(self, index: int) -> int:
        """Characters of text in the row at `index` as it was read, the same for every stage."""
        row = self.source[self._usable[index]]
        return sum(len(turn.text) for turn in row.turns) + len(row.chosen or "") + len(row.rejected or "")

    def image(self, key: str) -> Image.Image:
        """The RGB image behind a row's image key.

        Raises:
            DataError: If it cannot be read any more.
        """
        try:
            return self.source.image(key)
        except BadRow as error:
            raise self._changed(error) from error

    def content_hash(self) -> str:
        """SHA-256 over what the rows are."""
        return self.source.content_hash()

    def _changed(self, error: BadRow) -> DataError:
        return DataError(
            f"{self.name}: {error}; it could be read when training began",
            hint="Put it back and start the same command: a run with --save-every goes on from its last checkpoint.",
        )
