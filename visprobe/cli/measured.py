"""Showing a measurement, and leaving with the exit code it deserves."""

from __future__ import annotations

import sys
from pathlib import Path

from visprobe.cli.options import allowed_bad
from visprobe.cli.output import print_notes, print_results, print_statements, printable
from visprobe.errors import TooManyBadItems
from visprobe.io.atomic import to_json
from visprobe.report.measurement import Measurement

NAMED = 10


def command_line() -> list[str]:
    """The command line as it was typed, program name first."""
    return ["visprobe", *sys.argv[1:]]


def show(measured: Measurement, *, as_json: bool, page: Path | None = None) -> None:
    """The measurement on stdout: one JSON document, or the verdict and tables."""
    if as_json:
        print(to_json(measured.document(command_line())))
        return
    over_runs = [result for result in measured.results if result.analysis == "runs"]
    print_results(
        over_runs or measured.results
    )  # single runs of a study fill hundreds of lines: they are in the report
    print_statements([statement.text for statement in measured.verdict])
    print_notes([*measured.warnings, *(warning for result in measured.results for warning in result.warnings)])
    if page is not None:
        print(f"\nreport: {printable(str(page))}")


def finish(measured: Measurement, max_bad: str) -> None:
    """Name the images that were left out; more than allowed is exit code 3, after everything is written.

    Raises:
        TooManyBadItems: If more images were unusable than `max_bad` allows.
    """
    allowed = allowed_bad(max_bad, measured.images)
    for where, reason in measured.bad[:NAMED]:
        print(f"left out: {printable(where)}: {printable(reason)}", file=sys.stderr)
    if len(measured.bad) > NAMED:
        print(f"left out: {len(measured.bad) - NAMED} more, all listed in the JSON document", file=sys.stderr)
    if len(measured.bad) > allowed:
        raise TooManyBadItems(
            f"{len(measured.bad)} of {measured.images} images could not be used; --max-bad allows {allowed}",
            hint="Everything is written all the same. Repair or remove the images, or raise --max-bad.",
        )
