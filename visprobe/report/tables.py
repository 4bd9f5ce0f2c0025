"""Rows of a result as tables a reader can scan: one per measure, sites downwards, checkpoints across."""

from __future__ import annotations

from dataclasses import dataclass, field

from visprobe.report.numbers import interval_text, value_text
from visprobe.report.presentations import presentation_of, titles
from visprobe.results.read_site import WHERE_READ, where_read
from visprobe.results.result import Result, Row


@dataclass(frozen=True)
class Cell:
    """One number of a table, as text and as it is behind the text; `anchor` is its place in the page."""

    anchor: str
    value: str
    interval: str
    exact: str
    number: float
    low: float
    high: float


@dataclass
class Table:
    """One measure of one result.

    Attributes:
        title: What was measured, for the caption.
        heading: What the rows are: sites, weight groups or question groups.
        methods: How the intervals were made.
        columns: Column headings and whether the column is a floor.
        lines: Row heading to the cells by column heading.
        counts: Row heading to the n of its cells, in ascending order.
    """

    title: str
    heading: str
    methods: list[str] = field(default_factory=list)
    columns: dict[str, bool] = field(default_factory=dict)
    lines: dict[str, dict[str, Cell]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)


def tables(result: Result) -> list[Table]:
    """The tables of `result`, measured values before paired differences."""
    shown = presentation_of(result.analysis)
    named = {**titles(), **shown.titles}
    found: dict[tuple[bool, str], Table] = {}
    for index, row in enumerate(result.rows):
        measure = row.measure.partition("/")[0]
        key = (row.role == "difference", measure)
        title = _title(row, named.get(measure, measure)).replace(WHERE_READ, where_read(result))
        table = found.setdefault(key, Table(title, shown.heading))
        _add(table, row, anchor(result.analysis, index), shown.checkpoints_downwards)
    return [found[key] for key in sorted(found, key=lambda key: key[0])]


def anchor(analysis: str, index: int) -> str:
    """The id of row `index` in the page; only the analysis and a number go in, never a name from outside."""
    return f"number-{''.join(c for c in analysis if c.isalnum())}-{index}"


def _title(row: Row, title: str) -> str:
    if row.role != "difference":
        return title
    return f"{title}: paired differences" + (", percentage points" if row.estimate.unit == "fraction" else "")


def _add(table: Table, row: Row, place: str, downwards: bool) -> None:
    """Put a row into its cell; `downwards` has checkpoints, which may be many, as lines instead of columns."""
    group = row.measure.partition("/")[2]
    line = group or row.site
    column = f"{row.checkpoint} − {row.reference}" if row.role == "difference" else row.checkpoint
    line, column = (column, line) if downwards else (line, column)
    estimate = row.estimate
    exact = f"{estimate.value!r} [{estimate.low!r}, {estimate.high!r}], n = {estimate.n}, {estimate.method}"
    shown = value_text(estimate, row.role), interval_text(estimate, row.role)
    cell = Cell(place, *shown, exact, estimate.value, estimate.low, estimate.high)
    table.lines.setdefault(line, {})[column] = cell
    table.columns.setdefault(column, row.role == "floor" and not downwards)
    table.counts[line] = sorted({*table.counts.get(line, []), estimate.n})
    if estimate.method not in table.methods:
        table.methods.append(estimate.method)
