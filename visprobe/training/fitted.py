"""Rows as a stage needs them: unusable ones are replaced by their next usable neighbour, and counted."""

from __future__ import annotations

from PIL import Image

from visprobe.training.readers.check import Check, Need, Report, usable
from visprobe.training.rows import BadRow, Row, Rows


class Fitted:
    """The same rows in the shape that a stage trains on.

    Args:
        rows: The rows as they were read.
        need: What the stage trains on.
        image_required: Whether a row without images is unusable.
        check: What else makes a row unusable, such as `Conversations.check`.
    """

    def __init__(self, rows: Rows, need: Need, *, image_required: bool = True, check: Check | None = None) -> None:
        self.name = rows.name
        self._rows = rows
        self._usable = usable(rows, need, image_required=image_required, check=check)
        self._images: dict[str, Image.Image] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        """The row at `index`, or the next usable one; raises DataError if no row at all is usable."""
        example = self._usable[index]
        self._images = dict(zip(example.row.images, example.images, strict=True))  # decoded once, asked for next
        return example.row

    def length(self, index: int) -> int:
        """Characters of text in the row at `index` as it was read, the same for every stage; 0 if it cannot be read.

        Images are left alone: whoever asks for the length of every row does not wait for all images to be decoded.
        """
        try:
            row = self._rows[index]
        except BadRow:
            return 0
        return sum(len(turn.text) for turn in row.turns) + len(row.chosen or "") + len(row.rejected or "")

    def image(self, key: str) -> Image.Image:
        """The RGB image behind a key of the row that was asked for last."""
        return self._images[key] if key in self._images else self._rows.image(key)

    @property
    def skipped(self) -> dict[int, str]:
        """Reason by index, for every unusable row met so far."""
        return self._usable.skipped

    def content_hash(self) -> str:
        """SHA-256 over what the rows are."""
        return self._rows.content_hash()

    def report(self) -> Report:
        """Reasons of the unusable rows met so far."""
        return self._usable.report()
