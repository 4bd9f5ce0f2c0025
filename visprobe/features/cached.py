"""Contents of the feature store: entries for people, and checks of each chunk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from visprobe.features.store import array_hash, default_folder, noted_hashes
from visprobe.io.cache import Entry

_CHUNK = re.compile(r"[0-9a-f]{64}\.safetensors")
NOT_NOTED = "not noted"


def feature_entries() -> list[Entry]:
    """Return one entry per encoder, image set and computation; damaged chunks and those without notes count too."""
    groups: dict[tuple[str, str, str, str], list[Path]] = {}
    for path in sorted(default_folder().glob("[0-9a-f][0-9a-f]/*.safetensors")):
        if _CHUNK.fullmatch(path.name):
            groups.setdefault(_whose(path), []).append(path)
    return [
        Entry(hashlib.sha256("\0".join(group).encode()).hexdigest()[:12], "features", *group[:3], tuple(paths))
        for group, paths in groups.items()
    ]


def feature_faults(entry: Entry) -> list[str]:
    """Return faults of the chunks of an entry: their length, their key, and the hash of their arrays."""
    return [f"{path.name}: {fault}" for path in entry.files if (fault := _fault(path))]


def _whose(path: Path) -> tuple[str, str, str, str]:
    """Return owner, images, a description for people, and a key that separates entries."""
    try:
        noted = _noted(path)
        if "key" not in noted:
            return NOT_NOTED, NOT_NOTED, "", ""
        _, tower, settings, processor, compute, _ = json.loads(noted["key"])
        shown = f"{compute}, tower {tower[:12]}"
        return (
            noted.get("owner") or NOT_NOTED,
            noted.get("images") or NOT_NOTED,
            shown,
            f"{tower} {settings} {processor}",
        )
    except (OSError, SafetensorError, ValueError, TypeError):
        return "damaged", NOT_NOTED, "", ""


def _fault(path: Path) -> str:
    try:
        with safe_open(path, framework="numpy") as file:
            noted, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:  # also where the file is shorter than its header says
        return f"cannot be read: {error}"
    return _contradiction(path, noted, arrays)


def _contradiction(path: Path, noted: Mapping[str, str], arrays: Mapping[str, Any]) -> str:
    if "key" in noted and hashlib.sha256(noted["key"].encode()).hexdigest() != path.stem:
        return "its key has another hash than its name says"
    hashes = noted_hashes(noted)
    if damaged := [name for name, array in arrays.items() if array_hash(array) != hashes.get(name)]:
        return f"{', '.join(damaged)}: another hash than was noted"
    return ""


def _noted(path: Path) -> Mapping[str, str]:
    with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}
