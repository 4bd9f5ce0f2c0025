"""`visprobe scan`: table of the checkpoints in a directory tree or on a hub page."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.output import Bars, print_notes, print_statements, print_table
from visprobe.io.rows import check_rows_path

if TYPE_CHECKING:
    from visprobe.encoders.listing.scan import ScanRow


def command(
    places: Annotated[list[str], typer.Argument(help="Directories, hub ids, hub authors, or collections/OWNER/SLUG.")],
    identity: Annotated[
        bool, typer.Option("--hash", help="Read towers and connectors, and say which are byte-identical.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="Say which parts of each encoder differ from this checkpoint; implies --hash.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Also store the table: a .json or .csv file.",
            callback=lambda path: path and check_rows_path(path),  # before any work is done
        ),
    ] = None,
    json: o.Json = False,
    verbose: o.Verbose = None,
) -> None:
    """One line per checkpoint: family, layout, tower, what the MLLM reads, what it costs to read.

    Only headers are read, no weights, unless --hash or --base asks for them. What cannot be loaded has its reason, and
    the exit code is 3.

    Example: visprobe scan checkpoints

    Example: visprobe scan checkpoints --base checkpoints/base -o scan.csv
    """
    from visprobe.encoders.listing.scan import same_towers, scan
    from visprobe.errors import UnreadCheckpoints
    from visprobe.io.atomic import to_json
    from visprobe.io.redact import redacted
    from visprobe.io.rows import write_rows

    with Bars(verbose) as bars:
        rows = scan(places, hashes=identity, base=base, progress=bars)
    if output is not None:
        write_rows(output, [row.to_json() for row in rows])
    if json:
        print(to_json(redacted({"checkpoints": [row.to_json() for row in rows], "same_tower": same_towers(rows)})))
    else:
        _print(rows, compared=base is not None)
        print_statements([f"one tower, byte for byte: {', '.join(group)}" for group in same_towers(rows)])
    unread = [row.path for row in rows if row.problem]
    if not rows:
        print_notes(["no folder there holds the weights of a model"])
    if unread:
        raise UnreadCheckpoints(
            f"{len(unread)} of {len(rows)} checkpoints cannot be read, {unread[0]} the first",
            hint="Each has its reason and the step that helps in its row.",
        )


def _print(rows: list[ScanRow], compared: bool) -> None:
    common = _common(rows)
    where = f" in {common}" if common else ""
    read, unread = ([row for row in rows if bool(row.problem) == fault] for fault in (False, True))
    if read or not unread:
        title = f"{len(read)} {'checkpoint' if len(read) == 1 else 'checkpoints'}{where}"
        print_table(title, *_table(read, common, compared))
    if unread:
        cells = [[_short(row, common), row.problem or "", row.hint or ""] for row in unread]
        print_table(f"{len(unread)} that cannot be read{where}", ["checkpoint", "why", "what to do"], cells)


def _table(rows: list[ScanRow], common: str, compared: bool) -> tuple[list[str], list[list[str]]]:
    """Return headings, and a line per checkpoint."""
    columns = ["checkpoint", "family", "tower", "weights", "reads", "off path", "to read"]
    hashed = any(row.tower_hash for row in rows)
    cells = []
    for row in rows:
        line = [
            _short(row, common),
            f"{row.family} ({row.layout}{'' if row.container == 'safetensors' else f', {row.container}'})",
            f"{PurePath(row.tower).name}, {row.blocks} blocks",
            f"{_count(row.tower_params)} + {_count(row.connector_params)} {row.dtype}",
            row.consumed,
            f"{', '.join(row.off_path)} ({_count(row.off_path_params)})" if row.off_path else "",
            f"{_size(row.bytes_needed)} of {_size(row.bytes_stored)}",
        ]
        line += [str(row.tower_hash)[:8]] if hashed else []
        line += [_changed(row)] if compared else []
        cells.append(line)
    return columns + ["tower hash"] * hashed + ["changed"] * compared, cells


def _changed(row: ScanRow) -> str:
    if row.changed is None:
        return "not comparable: other shape"
    if not row.rounded:
        return ", ".join(row.changed) or "nothing"
    if not row.changed:
        return f"nothing: equal to the base rounded to {row.rounded}"
    return f"{', '.join(row.changed)}; the rest is the base rounded to {row.rounded}"


def _short(row: ScanRow, common: str) -> str:
    return row.path.removeprefix(common) or "."


def _common(rows: list[ScanRow]) -> str:
    """Return the directory that all rows share, which a table need not repeat."""
    paths = [row.path for row in rows]
    shared = os.path.commonpath(paths) if paths and len({os.path.isabs(path) for path in paths}) == 1 else ""
    return f"{shared}/" if shared and len(paths) > 1 else ""


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _size(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"
