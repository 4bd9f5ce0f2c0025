"""Tables of a result: one per measure, with sites in rows and checkpoints in columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from visprobe.report.numbers import interval_text, value_text
from visprobe.report.presentations import presentation_of, titles
from visprobe.results.read_site import WHERE_READ, where_read
from visprobe.results.result import Result, Row


@dataclass(frozen=True)
class Cell:
    """A number of a table, formatted and exact; `anchor` is its id in the page."""

    anchor: str
    value: str
    interval: str
    exact: str
    number: float
    low: float
    high: float


@dataclass
class Table:
    """A table of one measure of one result.

    Attributes:
        title: Name of the measure, for the caption.
        heading: Kind of the rows: sites, weight groups or question groups.
        methods: Methods of the intervals.
        columns: By column heading, True if the column is a baseline.
        lines: Cells by row heading and column heading.
        counts: Distinct n of the cells by row heading, in ascending order.
    """

    title: str
    heading: str
    methods: list[str] = field(default_factory=list)
    columns: dict[str, bool] = field(default_factory=dict)
    lines: dict[str, dict[str, Cell]] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)


def tables(result: Result) -> list[Table]:
    """Return the tables of `result`, measured values before paired differences."""
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
    """Return the id of row `index` in the page; made of the analysis and a number, never of a name from outside."""
    return f"number-{''.join(c for c in analysis if c.isalnum())}-{index}"


def _title(row: Row, title: str) -> str:
    if row.role != "difference":
        return title
    return f"{title}: paired differences" + (", percentage points" if row.estimate.unit == "fraction" else "")


def _add(table: Table, row: Row, place: str, downwards: bool) -> None:
    """Put a row into its cell; with `downwards`, checkpoints are lines instead of columns."""
    group = row.measure.partition("/")[2]
    line = group or row.site
    column = f"{row.checkpoint} − {row.reference}" if row.role == "difference" else row.checkpoint
    line, column = (column, line) if downwards else (line, column)
    estimate = row.estimate
    exact = f"{estimate.value!r} [{estimate.low!r}, {estimate.high!r}], n = {estimate.n}, {estimate.method}"
    shown = value_text(estimate, row.role), interval_text(estimate, row.role)
    cell = Cell(place, *shown, exact, estimate.value, estimate.low, estimate.high)
    table.lines.setdefault(line, {})[column] = cell
    table.columns.setdefault(column, row.role == "baseline" and not downwards)
    table.counts[line] = sorted({*table.counts.get(line, []), estimate.n})
    if estimate.method not in table.methods:
        table.methods.append(estimate.method)
