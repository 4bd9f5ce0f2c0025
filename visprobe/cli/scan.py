"""`visprobe scan`: what lies in a directory tree or on a hub page full of checkpoints."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from visprobe.cli import options as o
from visprobe.cli.output import Bars, print_notes, print_statements, print_table
from visprobe.io.rows import check_rows_path

if TYPE_CHECKING:
    from visprobe.encoders.scan import Found


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
    from visprobe.encoders.scan import same_towers, scan
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
        _print(rows, common=_common(rows), compared=base is not None)
        print_statements([f"one tower, byte for byte: {', '.join(group)}" for group in same_towers(rows)])
    unread = [row for row in rows if row.problem]
    if not rows:
        print_notes(["no folder there holds weights beside config.json or adapter_config.json, or an mmproj file"])
    if unread and not json:
        print_notes([f"{row.path} cannot be read: {row.problem}. {row.hint}" for row in unread])
    if unread:
        raise UnreadCheckpoints(
            f"{len(unread)} of {len(rows)} checkpoints cannot be read, {unread[0].path} the first",
            hint="Each has its reason and the step that helps in its row.",
        )


def _print(rows: list[Found], common: str, compared: bool) -> None:
    columns = ["checkpoint", "family", "tower", "weights", "reads", "off path", "to read"]
    hashed = any(row.tower_hash for row in rows)
    cells = []
    for row in (row for row in rows if not row.problem):
        line = [
            row.path.removeprefix(common) or ".",
            f"{row.family} ({row.layout}{'' if row.container == 'safetensors' else f', {row.container}'})",
            f"{PurePath(row.tower).name}, {row.blocks} blocks",
            f"{_count(row.tower_params)} + {_count(row.connector_params)} {row.dtype}",
            row.consumed,
            f"{', '.join(row.off_path)} ({_count(row.off_path_params)})" if row.off_path else "",
            f"{_size(row.bytes_needed)} of {_size(row.bytes_stored)}",
        ]
        line += [str(row.tower_hash)[:8]] if hashed else []
        line += (
            ["not comparable: other shape" if row.changed is None else ", ".join(row.changed) or "nothing"]
            if compared
            else []
        )
        cells.append(line)
    columns += ["tower hash"] * hashed + ["changed"] * compared
    print_table(f"{len(cells)} checkpoints{f' in {common}' if common else ''}", columns, cells)


def _common(rows: list[Found]) -> str:
    """The directory that all rows lie in, which a table need not repeat."""
    paths = [row.path for row in rows if not row.problem]
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
