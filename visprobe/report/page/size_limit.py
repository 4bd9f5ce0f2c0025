"""How much of a report stands in its page: at most 20 MB, so that it can be mailed and any browser opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from visprobe.report.tables import Table

MOST_BYTES = 20_000_000
# Characters of a text that stand in the page: both of its ends.
MOST_NAME, MOST_TEXT, MOST_COMMAND = 300, 4000, 40_000
MOST_LISTED = 200  # warnings, conditions, bad items: of more, the first
_ROOMS = (12_000_000, 6_000_000, 2_000_000, 0)  # bytes of figures
_PER_CELL = 2000  # bytes of figures for which a page has room for one more cell of its tables


def fitting(make: Callable[[int], str]) -> str:
    """The page that `make` makes of as much room for figures, in bytes, as leaves it within `MOST_BYTES`."""
    page = ""
    for room in _ROOMS:
        page = make(room)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def fit_sizes(sizes: Sequence[int], room: int) -> list[bool]:
    """Which of things of such sizes stand in `room`, the first ones first; a smaller one may follow one left out."""
    kept = []
    for size in sizes:
        kept.append(size <= room)
        room -= size if kept[-1] else 0
    return kept


def fit_tables(groups: Sequence[Sequence[Table]], room: int) -> Iterator[tuple[list[Table], int]]:
    """Each group of tables cut to what the page has room for, with the number of lines that were left out.

    Args:
        groups: Tables of each result.
        room: Bytes that figures have.
    """
    cells = room // _PER_CELL
    for tables in groups:
        shown, left_out = [], 0
        for table in tables:
            lines = cells // max(1, len(table.columns))
            cells -= len(table.columns) * min(lines, len(table.lines))
            left_out += max(0, len(table.lines) - lines)
            if lines:
                shown.append(replace(table, lines=dict(list(table.lines.items())[:lines])))
        yield shown, left_out
