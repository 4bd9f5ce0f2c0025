"""What commands print: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from visprobe.analyses.result import Result, Row
from visprobe.errors import VisprobeError
from visprobe.report.numbers import interval_text, value_text

WIDE = 2  # more measures than this do not fit side by side
UNBOUNDED = 1000  # characters of a line that goes to a file or a pipe
QUIET_PERIOD = 30.0  # seconds between two lines where there is no terminal to draw a bar on


class Bars:
    """A progress bar per stage on stderr; plain lines where stderr is no terminal; nothing if quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._tasks: dict[str, TaskID] = {}
        self._last = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=quiet or not sys.stderr.isatty(),
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `stage` are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(escape(stage), total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)
        if self._progress.disable and not self._quiet and self._due(done == total):
            print(f"{printable(stage)}: {done}/{total}", file=sys.stderr, flush=True)

    def _due(self, finished: bool) -> bool:
        now = time.monotonic()
        if finished or now - self._last >= QUIET_PERIOD:
            self._last = now
            return True
        return False


def print_error(error: VisprobeError, *, as_json: bool) -> None:
    """The error on stderr, and as a JSON document on stdout where JSON was asked for."""
    if as_json:
        what = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": what}, ensure_ascii=False))
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(printable(error.message))}", highlight=False)
    console.print(f"  [bold]try:[/] {escape(printable(error.hint))}", highlight=False)


def printable(text: str) -> str:
    """`text` without control characters, so that a file name cannot steer the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


def print_statements(statements: Sequence[str]) -> None:
    """The verdict, one paragraph per statement."""
    console = Console()
    for statement in statements:
        console.print(f"• {escape(printable(statement))}", highlight=False)


def print_results(results: Iterable[Result]) -> None:
    """One table per result: a line per checkpoint and site, a column per measure, with intervals."""
    for result in results:
        Console().print(_table(result))


def print_table(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A table of text, a list of cells per line; as wide as it needs to be where there is no terminal.

    Where words would have to be broken to fit a terminal, each line of the table becomes a paragraph.
    """
    cells = [[printable(cell) for cell in line] for line in lines]
    console = Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False)
    widths = _column_widths(list(zip(columns, *cells, strict=True)), console.width - 3 * len(columns) - 1)
    if widths is None:
        console.print(f"[bold]{escape(printable(title))}[/]")
        for first, *rest in cells:
            said = "; ".join(f"{column} {cell}" for column, cell in zip(columns[1:], rest, strict=True) if cell)
            console.print(f"[bold]{escape(first)}[/]", Padding(escape(said), (0, 0, 0, 2)), sep="\n")
        return
    table = Table(title=escape(printable(title)), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(escape(printable(column)), width=width)
    for line in cells:
        table.add_row(*map(escape, line))
    console.print(table)


def _column_widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Widths of columns of texts that take at most `room` together and break no word; None if there are none."""
    widths = [max(map(cell_len, texts)) for texts in columns]
    words = [max(map(cell_len, " ".join(texts).split()), default=0) for texts in columns]
    while sum(widths) > room:
        spare = [width - word for width, word in zip(widths, words, strict=True)]
        if not any(spare):
            return None
        widths[spare.index(max(spare))] -= 1
    return widths


def print_notes(notes: Iterable[str]) -> None:
    """What a reader must know before believing the numbers, on stderr."""
    for note in notes:
        Console(stderr=True).print(f"[yellow]note:[/] {escape(printable(note))}", highlight=False)


def _table(result: Result) -> Table:
    """Checkpoint and site down, measures across; many measures go down too, so that 80 columns are enough."""
    measures = list(dict.fromkeys(row.measure for row in result.rows))
    down = len(measures) > WIDE
    one_site = len({row.site for row in result.rows}) == 1
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in result.rows:
        name = f"{row.checkpoint} − {row.reference}" if row.role == "difference" else row.checkpoint
        what = (row.measure if one_site else f"{row.measure} at {row.site}") if down else row.site
        line = cells.setdefault((name, what), {})
        line["value" if down else row.measure] = _cell(row)
    table = Table(title=printable(result.question), title_justify="left", title_style="bold", caption=_caption(result))
    table.add_column("checkpoint")
    table.add_column("measure" if down else "site")
    for measure in ["value"] if down else measures:
        table.add_column(measure, justify="right")
    for (name, what), line in cells.items():
        table.add_row(
            escape(printable(name)),
            escape(printable(what)),
            *(line.get(str(column.header), "") for column in table.columns[2:]),
        )
    return table


def _caption(result: Result) -> str:
    """How many units the numbers rest on, and how their intervals were made."""
    methods = list(dict.fromkeys(row.estimate.method for row in result.rows))
    if methods == ["exact"]:
        return "exact"
    sizes = sorted({row.estimate.n for row in result.rows if row.estimate.method != "exact"})
    n = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"
    return f"{n}; {', '.join(methods)}"


def _cell(row: Row) -> str:
    text = f"{value_text(row.estimate, row.role)} {interval_text(row.estimate, row.role)}".strip()
    return f"[dim]{escape(text)}[/]" if row.role == "floor" else escape(text)
