"""Output of commands: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Collection, Iterable, Sequence
from types import TracebackType
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from visprobe.errors import VisprobeError
from visprobe.io.atomic import to_json
from visprobe.io.inert import escape_control_characters
from visprobe.io.redact import redact
from visprobe.report.numbers import interval_text, value_text
from visprobe.results.result import Result

WIDE = 2  # more measures than this do not fit side by side
UNBOUNDED = 1000  # characters of a line that goes to a file or a pipe
QUIET_PERIOD = 30.0  # seconds between two lines of progress without a terminal


class Bars:
    """Progress bars on stderr, one per stage; plain lines if stderr is not a terminal; nothing if quiet.

    Args:
        verbose: False shows nothing; True also shows how long each stage took, and the lines of `say`.
    """

    def __init__(self, verbose: bool | None = None) -> None:
        self._quiet, self._verbose = verbose is False, verbose is True
        self._began: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._last = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True, emoji=False),
            disable=self._quiet or not sys.stderr.isatty(),
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
            self._tasks[stage] = self._progress.add_task(escape(printable(stage)), total=total)
            self._began[stage] = time.monotonic()
        self._progress.update(self._tasks[stage], completed=done, total=total)
        if self._verbose and done == total:
            self.say([f"{stage}: {total} in {time.monotonic() - self._began[stage]:.1f} s"])
            return
        if self._progress.disable and not self._quiet and self._due(done == total):
            print(f"{printable(stage)}: {done}/{total}", file=sys.stderr, flush=True)

    def say(self, lines: Iterable[str]) -> None:
        """Print lines on stderr, above the bars, if verbose."""
        for line in lines if self._verbose else ():
            self._progress.console.print(escape(printable(line)), highlight=False)

    def note(self, line: str) -> None:
        """Print a line on stderr, above the bars, unless quiet."""
        if not self._quiet:
            self._progress.console.print(escape(printable(line)), highlight=False, soft_wrap=True)

    def _due(self, finished: bool) -> bool:
        now = time.monotonic()
        if finished or now - self._last >= QUIET_PERIOD:
            self._last = now
            return True
        return False


def print_error(error: VisprobeError) -> None:
    """Print message and hint of an error on stderr."""
    print_paragraph("error:", printable(error.message), style="bold red", stderr=True)
    print_paragraph("  try:", printable(error.hint), style="bold", stderr=True)


def print_error_document(error: VisprobeError) -> None:
    """Print the error as the one JSON document on stdout."""
    message, hint = printable(error.message), printable(error.hint)
    print(to_json({"error": {"type": type(error).__name__, "message": message, "hint": hint}}))


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback on stderr, without secrets and control characters; for `sys.excepthook`."""
    for line in "".join(traceback.format_exception(kind, error, trace)).splitlines():
        print(printable(line), file=sys.stderr)


def printable(text: str) -> str:
    """Remove secrets and spell out control characters, so that a file name cannot steer the terminal."""
    return escape_control_characters(redact(text))


def print_statements(statements: Sequence[str]) -> None:
    """Print the verdict, one paragraph per statement."""
    for statement in statements:
        print_paragraph("•", printable(statement))


def print_notes(notes: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for note in notes:
        print_paragraph("note:", printable(note), style="yellow", stderr=True)


def print_paragraph(mark: str, text: str, *, style: str = "", stderr: bool = False) -> None:
    """Print text after a mark, wrapped to the terminal with a hanging indent."""
    out = _console(stderr)
    lead = f"[{style}]{mark}[/]" if style else mark
    first, *rest = wrapped(text, out.width - len(mark) - 1)
    out.print(f"{lead} {escape(first)}", soft_wrap=True)
    for line in rest:
        out.print(f"{' ' * len(mark)} {escape(line)}", soft_wrap=True)


def print_results(results: Iterable[Result]) -> None:
    """Print one table per result: a line per checkpoint and site, a column per measure, with intervals."""
    for result in results:
        _print_result(result)


def print_table(
    title: str,
    columns: Sequence[str],
    lines: Iterable[Sequence[str]],
    *,
    numbers: Collection[int] = (),
    faint: Collection[int] = (),
    caption: str = "",
) -> None:
    """Print a table of text, as wide as it needs to be if there is no terminal.

    If words would have to be broken to fit a terminal, each line of the table becomes a paragraph.

    Args:
        title: Title above the table.
        columns: Headings.
        lines: Cells of each line.
        numbers: Indices of columns that are flush right.
        faint: Indices of lines that are dimmed, such as baselines.
        caption: Text below the table.
    """
    cells = [[printable(cell) for cell in line] for line in lines]
    headings = [printable(column) for column in columns]
    out = _console()
    for line in wrapped(printable(title), out.width):
        out.print(f"[bold]{escape(line)}[/]", soft_wrap=True)
    widths = _column_widths(list(zip(headings, *cells, strict=True)), out.width - 3 * len(columns) - 1)
    if widths is None:
        for row in cells:
            _print_line(out, headings, row)
    else:
        table = Table(box=SIMPLE_HEAD)
        for place, (heading, width) in enumerate(zip(headings, widths, strict=True)):
            justify: Literal["left", "right"] = "right" if place in numbers else "left"
            table.add_column(_fitted(heading, width), width=width, no_wrap=True, justify=justify)
        for place, row in enumerate(cells):
            table.add_row(*map(_fitted, row, widths), style="dim" if place in faint else "")
        out.print(table)
    if caption:
        for line in wrapped(printable(caption), out.width - 2):
            out.print(f"  [dim]{escape(line)}[/]", soft_wrap=True)
        out.print()


def _print_line(out: Console, headings: Sequence[str], cells: Sequence[str]) -> None:
    """Print a line of a table as a paragraph: its first cell, and below it heading and text of the others."""
    said = "; ".join(f"{heading} {cell}" for heading, cell in zip(headings[1:], cells[1:], strict=True) if cell)
    for line in wrapped(cells[0], out.width):
        out.print(f"[bold]{escape(line)}[/]", soft_wrap=True)
    for line in wrapped(said, out.width - 2):
        out.print(f"  {escape(line)}", soft_wrap=True)


def _fitted(text: str, width: int) -> str:
    return escape("\n".join(wrapped(text, width)))


def _column_widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return widths of columns with a sum of at most `room` that break no word; None if there are none."""
    widths = [max(map(cell_len, texts)) for texts in columns]
    longest = [max((cell_len(word) for text in texts for word in words(text)), default=0) for texts in columns]
    while sum(widths) > room:
        spare = [width - word for width, word in zip(widths, longest, strict=True)]
        if not any(spare):
            return None
        widths[spare.index(max(spare))] -= 1
    return widths


def _console(stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or as the text without one; without escape codes if NO_COLOR is set."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else UNBOUNDED
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=stream, width=width, color_system=colours, highlight=False, emoji=False)


def _print_result(result: Result) -> None:
    """Print checkpoints and sites down, measures across; many measures go down too, to fit 80 columns."""
    measures = list(dict.fromkeys(row.measure for row in result.rows))
    sites = list(dict.fromkeys(row.site for row in result.rows))
    down = len(measures) > WIDE
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    baselines = set()
    for row in result.rows:
        name = f"{row.checkpoint} − {row.reference}" if row.role == "difference" else row.checkpoint
        at = [row.site] if len(sites) > 1 else []
        where = (name, " at ".join([row.measure, *at])) if down else (name, *at)
        text = f"{value_text(row.estimate, row.role)} {interval_text(row.estimate, row.role)}".strip()
        cells.setdefault(where, {})["value" if down else row.measure] = text
        if row.role == "baseline":
            baselines.add(where)
    left = ("checkpoint", "measure") if down else ("checkpoint", "site") if len(sites) > 1 else ("checkpoint",)
    across = ["value"] if down else measures
    print_table(
        result.question,
        (*left, *across),
        [(*where, *(line.get(column, "") for column in across)) for where, line in cells.items()],
        numbers=range(len(left), len(left) + len(across)),
        faint=[place for place, where in enumerate(cells) if where in baselines],
        caption=_caption(result) if len(sites) > 1 else f"at {sites[0]}; {_caption(result)}",
    )


def _caption(result: Result) -> str:
    """Return n and the methods of the intervals."""
    methods = list(dict.fromkeys(row.estimate.method for row in result.rows))
    if methods == ["exact"]:
        return "exact"
    sizes = sorted({row.estimate.n for row in result.rows if row.estimate.method != "exact"})
    n = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"
    return f"{n}; {', '.join(methods)}"


_TOGETHER = re.compile(r"\[[^\s\[\]]+, [^\s\[\]]+\]|\b[nkp] = \S+|[\d.,]+ %|\d (?:[KMGT]?i?B|s)\b")
_HELD = "\0"  # a space at which a line must not end; `printable` text has no such character


def words(text: str) -> list[str]:
    """Split `text` where a line may end: "0.9 [0.8, 1.0]" has two words, "n = 100" one."""
    return [
        word.replace(_HELD, " ") for word in _TOGETHER.sub(lambda match: match[0].replace(" ", _HELD), text).split()
    ]


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Wrap `text` into lines of at most `width` columns; a longer word is cut.

    Args:
        text: Text without control characters.
        width: Columns of a line.
        indent: Prefix of each line but the first.
    """
    lines, line = [], ""
    for word in words(text):
        if line.strip() and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line = indent
        *full, rest = chop_cells(word, max(width - cell_len(indent), 1)) or [""]
        for part in full:
            if line.strip():
                lines.append(line)
            lines.append((indent if lines else "") + part)
            line = indent
        line += f" {rest}" if line.strip() else rest
    return [*lines, line] if line.strip() or not lines else lines
