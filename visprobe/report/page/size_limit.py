"""Size limit of the page: at most 20 MB, so that it can be mailed and any browser opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from visprobe.report.tables import Table

MOST_BYTES = 20_000_000
# Characters of a text that the page shows, from both of its ends.
MOST_NAME, MOST_TEXT, MOST_COMMAND = 300, 4000, 40_000
MOST_LISTED = 200  # warnings, conditions or bad items that the page lists
_ROOMS = (12_000_000, 6_000_000, 2_000_000, 0)  # bytes of figures
_PER_CELL = 2000  # bytes of room for figures per table cell: less room for figures also means shorter tables


def render_within_budget(make: Callable[[int], str]) -> str:
    """Call `make` with less and less room for figures (bytes) until the page is within `MOST_BYTES`."""
    page = ""
    for room in _ROOMS:
        page = make(room)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def fit_sizes(sizes: Sequence[int], room: int) -> list[bool]:
    """Return which items fit into `room`, filled in order; an item that is too large is skipped."""
    kept = []
    for size in sizes:
        kept.append(size <= room)
        room -= size if kept[-1] else 0
    return kept


def fit_tables(groups: Sequence[Sequence[Table]], room: int) -> Iterator[tuple[list[Table], int]]:
    """Yield each group of tables cut to the cells that the page has room for, and the number of lines left out.

    Args:
        groups: Tables of each result.
        room: Bytes of room for figures.
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
