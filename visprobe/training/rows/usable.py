"""Rows in the shape that a stage trains on, without those it cannot use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from PIL import Image

from visprobe.data.rows import BadRow, Row, Rows, Turn
from visprobe.errors import DataError

Need = Callable[[Row], Row]
"""From a row to the shape that a stage trains on. Raises BadRow if it cannot have it."""
NO_IMAGE = "no image"  # a kind of row rather than a fault: a recipe may want it


def supervised(row: Row) -> Row:
    """Return the row with an assistant turn at its end: `chosen` or `answer` if the conversation has none."""
    if row.turns[-1].role == "assistant":
        if not any(turn.learned for turn in row.turns if turn.role == "assistant"):
            raise BadRow("every answer is marked as not to be learned")
        return row
    answer = row.chosen or row.answer
    if not answer:
        raise BadRow("no answer")
    return replace(row, turns=(*row.turns, Turn("assistant", answer)))


def preference(row: Row) -> Row:
    """Return the row if it ends with the user's question and has `chosen` and `rejected`."""
    if row.chosen is None or row.rejected is None:
        raise BadRow("no pair of answers")
    return _asking(row, row.turns)


def verifiable(row: Row) -> Row:
    """Return the row up to the user's last question, with `answer`, the reference of a reward."""
    if not (row.answer or "").strip():
        raise BadRow("no reference answer")
    return _asking(row, row.turns[:-1] if row.turns[-1].role == "assistant" else row.turns)


def _asking(row: Row, turns: tuple[Turn, ...]) -> Row:
    if not turns or turns[-1].role != "user":
        raise BadRow("does not end with a question")
    return replace(row, turns=turns)


def fit(row: Row, need: Need, *, image_required: bool = True) -> Row:
    """Return the row in the shape that a stage trains on.

    Args:
        row: The row.
        need: Converts a row to that shape, or raises BadRow.
        image_required: Whether a row without images is unusable.

    Raises:
        BadRow: If the row cannot have that shape.
    """
    if image_required and not row.images:
        raise BadRow(NO_IMAGE)
    return need(row)


class UsableRows:
    """Rows that can be trained on, in the shape that a stage needs.

    Args:
        rows: The rows as they were read.
        need: Converts a row to the stage's shape.
        usable: Indices of usable rows, found by `survey`; all by default.

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
        """Return the usable row at `index`.

        Raises:
            DataError: If it can no longer be read or trained on.
        """
        try:
            return fit(self.source[self._usable[index]], self._need, image_required=False)
        except BadRow as error:
            raise self._changed(error) from error

    def length(self, index: int) -> int:
        """Return the characters of text in the row at `index`, before conversion, so the same for every stage."""
        row = self.source[self._usable[index]]
        return sum(len(turn.text) for turn in row.turns) + len(row.chosen or "") + len(row.rejected or "")

    def image(self, key: str) -> Image.Image:
        """Return the RGB image of an image key.

        Raises:
            DataError: If it can no longer be read.
        """
        try:
            return self.source.image(key)
        except BadRow as error:
            raise self._changed(error) from error

    def content_hash(self) -> str:
        """Return the SHA-256 over the source rows."""
        return self.source.content_hash()

    def _changed(self, error: BadRow) -> DataError:
        return DataError(
            f"{self.name}: {error}; it could be read when training began",
            hint="Put it back and start the same command: a run with --save-every goes on from its last checkpoint.",
        )
