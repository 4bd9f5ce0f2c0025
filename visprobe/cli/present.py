"""Presentation of a measurement on the terminal, and the errors that set the exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visprobe.analyses.core.gates import Gate
from visprobe.cli.config_file import assignments
from visprobe.cli.output import print_notes, print_results, print_statements, printable
from visprobe.data.allowed_bad import allowed_bad
from visprobe.errors import GateTripped, TooManyBadItems, UsageError, VisprobeError
from visprobe.io.atomic import to_json
from visprobe.pipelines.measurement import Measurement
from visprobe.report.presentations import presentation_of
from visprobe.results.result import Result

NAMED = 10  # bad images that are printed
LONG = 40  # rows above which a table is cut on a terminal; what is left may have twice as many


def command_line() -> list[str]:
    """Return the command line as it was typed: options from the environment, program name, arguments."""
    return [*assignments(), "visprobe", *sys.argv[1:]]


def show_json(document: Mapping[str, Any]) -> None:
    """Print the one JSON document on stdout."""
    print(to_json(document))


def show(measured: Measurement, *, page: Path | None = None, whole: bool = False) -> None:
    """Print tables and verdict on stdout.

    Args:
        measured: Measurement to show.
        page: Path of the report, if there is one; long results are then cut to what a terminal has room for.
        whole: Cut nothing.
    """
    # Single runs of a study, and analyses of every tensor, fill hundreds of lines: a result that sums up replaces them.
    results = [result for result in measured.results if presentation_of(result.analysis).sums_up] or measured.results
    shown = [result if page is None or whole else _short(result) for result in results]
    print_results([result for result in shown if result.rows])
    print_notes([*measured.warnings, *(warning for result in measured.results for warning in result.warnings)])
    print_statements([statement.text for statement in measured.verdict])  # last, where people look first
    if cut := [long.analysis for long, part in zip(results, shown, strict=True) if part != long]:
        print(f"\nin full only in the report, for their length: {', '.join(cut)}")
    print_report(page)


def print_report(page: Path | None) -> None:
    """Print the path of the report, if there is one."""
    if page is not None:
        print(f"\nreport: {printable(str(page))}")


def _short(result: Result) -> Result:
    """Cut a long result to rows where the language model reads, a very long one to the first measure of these."""
    read = {result.consumed, "projected", "tower"}
    where_read = tuple(row for row in result.rows if row.site in read)
    first = tuple(row for row in where_read if row.measure == where_read[0].measure)
    for rows, most in ((result.rows, LONG), (where_read, 2 * LONG), (first, 2 * LONG)):
        if len(rows) <= most:
            return result if rows == result.rows else replace(result, rows=rows)
    return replace(result, rows=())


def finish(measured: Measurement, max_bad: str, gates: Sequence[Gate] = (), misfits: Sequence[UsageError] = ()) -> None:
    """Print the images that were left out; raise an error if there are too many, or a condition was met.

    Raises:
        TooManyBadItems: If more images were unusable than `max_bad` allows.
        GateTripped: If a condition was met.
        UsageError: The first of `misfits`, conditions that match nothing that was measured.
    """
    problems: list[VisprobeError] = []
    allowed = allowed_bad(max_bad, measured.images)
    for where, reason in measured.bad[:NAMED]:
        print(f"left out: {printable(where)}: {printable(reason)}", file=sys.stderr)
    if len(measured.bad) > NAMED:
        print(f"left out: {len(measured.bad) - NAMED} more, all listed in the JSON document", file=sys.stderr)
    print_notes(
        f"{_outcome(gate)}, held: the number is beyond, but not its whole interval"
        for gate in gates
        if gate.beyond and not gate.tripped
    )
    if len(measured.bad) > allowed:
        said = f"{len(measured.bad)} of {measured.images} images could not be used; --max-bad allows {allowed}"
        hint = "Everything is written all the same. Repair or remove the images, or raise --max-bad."
        problems.append(TooManyBadItems(said, hint=hint))
    if tripped := [gate for gate in gates if gate.tripped]:
        hint = "Everything is written all the same: the report says what moved. Or change the condition."
        problems.append(GateTripped(f"--fail-on: {'; '.join(map(_outcome, tripped))}", hint=hint))
    problems += misfits
    print_notes(problem.message for problem in problems[1:])
    if problems:
        raise problems[0]


def _outcome(gate: Gate) -> str:
    at = f"{gate.value:.4g} [{gate.low:.4g}, {gate.high:.4g}]"
    return f"{gate.condition}: {gate.checkpoint} at {gate.site} has {at}"
