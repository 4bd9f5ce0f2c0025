"""What the caches of remote files and of JSON offsets hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

from visprobe.io.cache import Entry, cache_folder
from visprobe.io.hub.range_cache import has_address, hash_of, listed, union
from visprobe.io.sealed_array import load_sealed

_ADDRESS = re.compile(r"[0-9a-f]{40,64}")
_OFFSETS = re.compile(r"([0-9a-f]{64})-(lines|array)-\d+\.npy")


def hub_entries() -> list[Entry]:
    """One entry per remote file of which ranges are here."""
    folder = cache_folder("hub")
    owners = _owners(folder / "models")
    found = [path for path in (folder / "files").glob("*") if _ADDRESS.fullmatch(path.name)]
    return [_hub_entry(path, *owners.get(path.name, ("", ""))) for path in sorted(found) if (path / "data").is_file()]


def json_entries() -> list[Entry]:
    """One entry per JSON file of training rows whose records were found."""
    found = [(path, _OFFSETS.fullmatch(path.name)) for path in sorted(cache_folder("json-index").glob("*.npy"))]
    return [
        Entry(match[1][:12], "json-index", "", f"rows of content {match[1][:12]}", match[2], (path,))
        for path, match in found
        if match
    ]


def hub_faults(entry: Entry) -> list[str]:
    """What is wrong with the ranges of one remote file: their list, their length, and their hashes.

    That the hub sent what it meant can only be compared where all of a file is here: its address is then its hash.
    """
    data = next(path for path in entry.files if path.name == "data")
    try:
        size, ranges = listed(data.parent / "ranges.json")
    except FileNotFoundError:
        return ["ranges.json is missing: nothing of it is believed"]
    except (ValueError, TypeError, KeyError) as error:
        return [f"ranges.json is damaged: {error}"]
    if data.stat().st_size != size:
        return [f"{data.stat().st_size} bytes long instead of {size}"]
    damaged = [f"{start} to {end}" for start, end, noted in ranges if hash_of(data, (start, end)) != noted]
    if damaged:
        return [f"bytes {', '.join(damaged)}: another hash than was noted"]
    # The address of a file that no listing names is not the hash of its content.
    whole = union((start, end) for start, end, _ in ranges) == [(0, size)]
    if whole and entry.checkpoint and not has_address(data, data.parent.name):
        return ["the content has another hash than its address says: the hub, or a mirror, sent something else"]
    return []


def json_faults(entry: Entry) -> list[str]:
    """What is wrong with a file of offsets: its length, or the hash of its numbers."""
    try:
        load_sealed(entry.files[0])
    except (OSError, ValueError) as error:
        return [f"cannot be read: {error}"]
    return []


def _hub_entry(folder: Path, repo: str, name: str) -> Entry:
    files = tuple(path for path in (folder / "data", folder / "ranges.json") if path.is_file())
    size = (folder / "data").stat().st_size
    return Entry(folder.name[:12], "hub", repo, name, f"of a file of {size} bytes", files)


def _owners(folder: Path) -> dict[str, tuple[str, str]]:
    """Address of a content to the model and the file that have it, from the listings that were kept."""
    owners: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("*/*.json")):
        try:
            files = json.loads(path.read_bytes())["files"]
            owners |= {str(of[1]): (path.parent.name.replace("--", "/"), name) for name, of in files.items() if of}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            continue  # a damaged listing names nothing; it is fetched again when it is needed
    return owners
