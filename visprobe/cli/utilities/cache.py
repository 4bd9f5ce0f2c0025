"""`visprobe cache`: listing, checking and deleting the contents of the caches."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprobe.cli import options as o
from visprobe.cli.output import print_table, printable
from visprobe.errors import UsageError, VisprobeError
from visprobe.io.disk import size_text
from visprobe.io.redact import redact

if TYPE_CHECKING:
    from visprobe.io.cache import Entry

app = typer.Typer(help="What the caches hold: features, parts of remote files, offsets.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SPANS = {"h": 3600, "d": 86400, "w": 7 * 86400}


@app.command("ls")
def ls(json: o.Json = False) -> None:
    """What each cache holds: whose it is, of which images, its size and age.

    Example: visprobe cache ls

    Example: visprobe cache ls --json
    """
    from visprobe.io.atomic import to_json
    from visprobe.io.cache import CACHES, abandoned, cache_folder

    entries, left = _entries(), [path for name in CACHES for path in abandoned(cache_folder(name))]
    folders = {name: str(cache_folder(name)) for name in CACHES}
    if json:
        print(to_json({"folders": folders, "entries": list(map(_plain, entries)), "leftovers": list(map(str, left))}))
        return
    if entries:
        print_table(
            "caches", ("id", "cache", "of", "images or file", "detail", "files", "size", "age"), _lines(entries)
        )
    print(f"{len(entries)} entries, {size_text(sum(entry.bytes for entry in entries))} in {cache_folder('.')}")
    if left:
        print(f"{len(left)} temporary files of killed runs; visprobe cache prune removes them")


@app.command("rm")
def rm(
    ids: Annotated[list[str], typer.Argument(help="Ids that ls shows, or their beginnings, or 'all'.")],
    yes: Yes = False,
    json: o.Json = False,
) -> None:
    """Delete entries; what a run needs again is computed or fetched again.

    Example: visprobe cache rm 3fa9c1d2e4b5

    Example: visprobe cache rm all --yes
    """
    entries = _entries()
    _delete(entries if ids == ["all"] else [_named(wanted, entries) for wanted in dict.fromkeys(ids)], [], yes, json)


@app.command("prune")
def prune(
    older_than: Annotated[str | None, typer.Option(help="Entries not written to for so long: 12h, 30d, 8w.")] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Oldest entries until the rest takes at most: 500M, 20G.")
    ] = None,
    yes: Yes = False,
    json: o.Json = False,
) -> None:
    """Delete temporary files of killed runs, and entries by age and size.

    Example: visprobe cache prune

    Example: visprobe cache prune --older-than 30d --max-size 20G --yes
    """
    from visprobe.io.cache import CACHES, abandoned, cache_folder

    entries = sorted(_entries(), key=lambda entry: entry.written)
    chosen = []
    if older_than is not None:
        before = time.time() - _amount(older_than, "--older-than", _SPANS, "30d")
        chosen = [entry for entry in entries if entry.written < before]
    if max_size is not None:
        allowed = _amount(max_size, "--max-size", _UNITS, "20G")
        kept = [entry for entry in entries if entry not in chosen]
        while sum(entry.bytes for entry in kept) > allowed:
            chosen.append(kept.pop(0))
    _delete(chosen, [path for name in CACHES for path in abandoned(cache_folder(name))], yes, json)


@app.command("verify")
def verify(json: o.Json = False) -> None:
    """Read everything and compare it with its hashes and lengths; exit code 1 if something is damaged.

    Example: visprobe cache verify

    Example: visprobe cache verify --json
    """
    from visprobe.io.atomic import to_json

    entries = _entries()
    faults = {entry.id: found for entry in entries if (found := _faults(entry))}
    if json:
        print(to_json({"verified": len(entries), "faults": faults}))
    else:
        for id, found in faults.items():
            for fault in found:
                print(f"{id}: {printable(fault)}")
        print(f"{len(entries)} entries verified, {len(faults)} damaged")
    if faults:
        print(f"visprobe cache rm {' '.join(faults)} removes what is damaged", file=sys.stderr)
        raise typer.Exit(1)


def _entries() -> list[Entry]:
    from visprobe.features.cached import feature_entries
    from visprobe.io.cache import hub_entries, json_entries

    return [*feature_entries(), *hub_entries(), *json_entries()]


def _faults(entry: Entry) -> list[str]:
    from visprobe.features.cached import feature_faults
    from visprobe.io.cache import hub_faults, json_faults

    return {"features": feature_faults, "hub": hub_faults, "json-index": json_faults}[entry.cache](entry)


def _named(wanted: str, entries: Sequence[Entry]) -> Entry:
    found = [entry for entry in entries if entry.id.startswith(wanted)] if wanted else []
    if len(found) != 1:
        problem = "no entry has" if not found else f"{len(found)} entries have"
        raise UsageError(f"{problem} an id that begins with {wanted!r}", hint="visprobe cache ls shows the ids.")
    return found[0]


def _amount(text: str, option: str, units: dict[str, int], example: str) -> float:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)([{''.join(units)}])", text.strip())
    if not match:
        raise UsageError(f"{option} {text!r} is no amount", hint=f"Write {example}; units are {', '.join(units)}.")
    return float(match[1]) * units[match[2]]


def _delete(entries: Sequence[Entry], left: Sequence[Path], yes: bool, json: bool) -> None:
    from visprobe.io.atomic import to_json
    from visprobe.io.cache import CACHES, Removed, cache_folder, remove, size_on_disk

    size = sum(entry.bytes for entry in entries) + sum(map(size_on_disk, left))
    what = f"{len(entries)} entries and {len(left)} temporary files, {size_text(size)}"
    removed = Removed()
    if entries or left:
        if not yes:
            _ask(entries, what, json)
        for name in CACHES:
            folder = cache_folder(name)
            own = [path for path in left if path.is_relative_to(folder)]
            own += [path for entry in entries if entry.cache == name for path in entry.files]
            done = remove(own, folder)
            removed = Removed(removed.freed + done.freed, removed.in_use + done.in_use)
    if json:
        print(to_json({"entries": [e.id for e in entries], "leftovers": list(map(str, left)), "freed": removed.freed}))
    else:
        print(f"{size_text(removed.freed)} freed: {what}" if entries or left else "nothing to delete")
    if removed.in_use:
        raise VisprobeError(
            f"{len(removed.in_use)} files are in use by a running command and stay, the first: {removed.in_use[0]}",
            hint="Wait until it has ended, and run this again.",
        )


def _ask(entries: Sequence[Entry], what: str, json: bool) -> None:
    if json or not sys.stdin.isatty():
        raise UsageError(f"{what} would be deleted, and nobody can be asked", hint="Add --yes to delete them.")
    if entries:
        print_table(
            "to delete", ("id", "cache", "of", "images or file", "detail", "files", "size", "age"), _lines(entries)
        )
    typer.confirm(f"Delete {what}?", abort=True)


def _lines(entries: Sequence[Entry]) -> list[list[str]]:
    now = time.time()
    return [
        [
            *(entry.id, entry.cache, entry.checkpoint, entry.images, entry.detail, str(len(entry.files))),
            *(size_text(entry.bytes), _age(now - entry.written)),
        ]
        for entry in entries
    ]


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id, "cache": entry.cache, "checkpoint": redact(entry.checkpoint), "images": redact(entry.images),
        "detail": entry.detail, "files": list(map(str, entry.files)), "bytes": entry.bytes, "written": entry.written,
    }  # fmt: skip
