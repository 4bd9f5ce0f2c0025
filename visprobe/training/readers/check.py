"""Rows fit for a purpose: unusable ones are skipped and counted, never fatal unless there is nothing else."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from visprobe.errors import DataError
from visprobe.training.rows import BadRow, Row, Rows, Turn

Need = Literal["supervised", "preference", "reward"]
Check = Callable[[Row], None]
"""Raises BadRow for a row that the model cannot be told."""


@dataclass(frozen=True)
class Example:
    """A usable row with its images.

    Attributes:
        index: Its index in the rows.
        row: The row, in the shape that was needed.
        images: Its RGB images, in the order of the marks.
    """

    index: int
    row: Row
    images: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        checked: Rows looked at.
        bad: Number of unusable rows by reason, commonest first.
        examples: One "id: details" per reason.
    """

    checked: int
    bad: dict[str, int]
    examples: dict[str, str]


def fit(row: Row, need: Need, *, image_required: bool = True) -> Row:
    """The row in the shape that a stage trains on.

    Args:
        row: The row.
        need: "supervised": ends with an assistant turn, which is `chosen` or `answer` where the conversation has
            none. "preference": ends with the user's question, with `chosen` and `rejected`. "reward": ends with the
            user's question, with `answer`.
        image_required: Whether a row without images is unusable.

    Raises:
        BadRow: If the row cannot have that shape.
    """
    if image_required and not row.images:
        raise BadRow("no image")
    if need == "supervised":
        return _supervised(row)
    if need == "preference" and (row.chosen is None or row.rejected is None):
        raise BadRow("no pair of answers")
    if need == "reward" and not row.answer:
        raise BadRow("no reference answer")
    turns = row.turns[:-1] if need == "reward" and row.turns[-1].role == "assistant" else row.turns
    if not turns or turns[-1].role != "user":
        raise BadRow("does not end with a question")
    return replace(row, turns=turns)


def _supervised(row: Row) -> Row:
    if row.turns[-1].role == "assistant":
        return row
    answer = row.chosen or row.answer
    if not answer:
        raise BadRow("no answer")
    return replace(row, turns=(*row.turns, Turn("assistant", answer)))


class Usable:
    """Rows for training, loaded one at a time; see `usable`.

    Attributes:
        skipped: Reason by index, for every unusable row met so far.
    """

    def __init__(self, rows: Rows, need: Need, image_required: bool, check: Check | None = None) -> None:
        self._rows, self._need, self._image_required, self._check = rows, need, image_required, check
        self.skipped: dict[int, str] = {}
        self._examples: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """The usable row at `index` or, if that one is unusable, the next one after it, around the end.

        Raises:
            DataError: If no row at all is usable.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        for step in range(len(self)):
            if example := self._load((index + step) % len(self)):
                return example
        raise self._nothing()

    def __iter__(self) -> Iterator[Example]:
        """The usable rows in order, each once.

        Raises:
            DataError: If no row at all is usable.
        """
        found = False
        for index in range(len(self)):
            if example := self._load(index):
                found = True
                yield example
        if not found:
            raise self._nothing()

    def report(self) -> Report:
        """Reasons of the unusable rows met so far; `checked` is the size of the set."""
        counts = Counter(self.skipped.values())
        return Report(len(self), dict(counts.most_common()), dict(self._examples))

    def _load(self, index: int) -> Example | None:
        if index in self.skipped:
            return None
        row_id = f"{self._rows.name}#{index}"
        try:
            row = self._rows[index]
            row_id = row.id
            row = fit(row, self._need, image_required=self._image_required)
            if self._check:
                self._check(row)
            return Example(index, row, tuple(self._rows.image(key) for key in row.images))
        except BadRow as error:
            reason = sys.intern(str(error).partition(": ")[0])  # one string for a million rows
            self.skipped[index] = reason
            self._examples.setdefault(reason, f"{row_id}: {error}")
            return None

    def _nothing(self) -> DataError:
        report = self.report()
        if not report.bad:
            return DataError(f"{self._rows.name} holds no row", hint="Check the file after --data.")
        reason, count = next(iter(report.bad.items()))
        return DataError(
            f"no row of {self._rows.name} is usable for {self._need} training; commonest reason: {reason}, {count} of "
            f"{len(self)} rows, for example {report.examples[reason]}",
            hint=_hint(reason),
        )


def usable(rows: Rows, need: Need, *, image_required: bool = True, check: Check | None = None) -> Usable:
    """Rows in the shape that a stage trains on, with their images.

    Nothing is read until a row is asked for. By index every position gives a row, an unusable one its next usable
    neighbour; iteration leaves unusable rows out.

    Args:
        rows: The rows.
        need: What the stage trains on; see `fit`.
        image_required: Whether rows without images are unusable.
        check: What else makes a row unusable.
    """
    return Usable(rows, need, image_required, check)


def scan(rows: Rows, need: Need, *, limit: int | None = None, image_required: bool = True) -> Report:
    """Read rows and decode their images once, and count what cannot be used, by reason.

    Args:
        rows: The rows.
        need: What the stage trains on; see `fit`.
        limit: Look at so many rows from the start; all by default.
        image_required: Whether rows without images are unusable.
    """
    view = Usable(rows, need, image_required)
    checked = len(rows) if limit is None else min(limit, len(rows))
    for index in range(checked):
        view._load(index)
    return replace(view.report(), checked=checked)


def _hint(reason: str) -> str:
    if "image" in reason and reason.startswith(("missing", "no ")):
        return "Name the folder that the image paths start from."
    if "chat template" in reason:
        return "Take such rows out, or give the base a chat template that knows them."
    return "Compare the row with the formats in visprobe.training.readers.records."
