"""Caches of this machine: files that can be made or fetched again, and their removal."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from visprobe.io.atomic import ABANDONED, MARK
from visprobe.io.hub.range_cache import has_address, hash_of, listed, union
from visprobe.io.sealed_array import load_sealed

CACHES = ("features", "hub", "json-index")
_LOCKS = (".lock", "lock")  # files of visprobe.io.lock


def cache_folder(name: str) -> Path:
    """Return folder `name` in $VISPROBE_CACHE, or in the user's cache folder of this platform."""
    import platformdirs

    return Path(os.environ.get("VISPROBE_CACHE") or platformdirs.user_cache_dir("visprobe")) / name


@dataclass(frozen=True)
class Entry:
    """Files of a cache that belong together: features of one checkpoint on one image set, or one remote file.

    Attributes:
        id: 12 hexadecimal digits.
        cache: Name of its cache: "features", "hub", "json-index".
        checkpoint: Checkpoint that it belongs to, if that was noted.
        images: Image set, or file, that it was made from.
        detail: Text that tells it from other entries.
        files: Paths of its files.
    """

    id: str
    cache: str
    checkpoint: str
    images: str
    detail: str
    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Bytes that its files take on the disk, holes of sparse files aside."""
        return sum(size_on_disk(path) for path in self.files)

    @property
    def written(self) -> float:
        """Time of the last write, in seconds since 1970."""
        return max((path.stat().st_mtime for path in self.files if path.exists()), default=0.0)


def size_on_disk(path: Path) -> int:
    """Return the bytes that a file takes on the disk; 0 if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, getattr(status, "st_blocks", 1 << 60) * 512)  # Windows does not count blocks


def abandoned(folder: Path) -> list[Path]:
    """Return temporary files in `folder` or below that killed writers left; younger ones may have a writer."""
    temporary = [path for path in folder.rglob(f".*{MARK}*") if path.is_file()]
    return sorted(path for path in temporary if time.time() - path.stat().st_mtime > ABANDONED)


@dataclass
class Removed:
    """Result of `remove`: bytes freed, and files that stay because a running command holds them."""

    freed: int = 0
    in_use: list[Path] = field(default_factory=list)


def remove(paths: Sequence[Path], folder: Path) -> Removed:
    """Delete files of a cache.

    Args:
        paths: Files; one that is gone already is skipped.
        folder: Folder of the cache. Nothing outside of it is touched, wherever links lead.

    Returns:
        Bytes freed, and files that were in use.

    Raises:
        ValueError: If a path does not lie in `folder`; nothing is deleted then.
    """
    root = folder.resolve()
    if outside := [path for path in paths if not path.parent.resolve().is_relative_to(root)]:
        raise ValueError(f"{outside[0]} does not lie in {folder}")
    removed = Removed()
    for path in paths:
        freed = 0 if path.is_symlink() else size_on_disk(path)
        try:
            with _right_to_write(path.parent):
                path.unlink(missing_ok=True)
            removed.freed += freed
        except Timeout:
            removed.in_use.append(path)
    return removed


def _right_to_write(folder: Path) -> AbstractContextManager[object]:
    """Return the lock that writers of this folder take; its file stays, as another process may wait for it."""
    lock = next((folder / name for name in _LOCKS if (folder / name).is_file()), None)
    return FileLock(lock, timeout=1) if lock else nullcontext()


_ADDRESS = re.compile(r"[0-9a-f]{40,64}")
_OFFSETS = re.compile(r"([0-9a-f]{64})-(lines|array)-\d+\.npy")


def hub_entries() -> list[Entry]:
    """Return one entry per remote file of which ranges are cached."""
    folder = cache_folder("hub")
    owners = _owners(folder / "models")
    found = [path for path in (folder / "files").glob("*") if _ADDRESS.fullmatch(path.name)]
    return [_hub_entry(path, *owners.get(path.name, ("", ""))) for path in sorted(found) if (path / "data").is_file()]


def json_entries() -> list[Entry]:
    """Return one entry per JSON file of training rows whose record offsets are cached."""
    found = [(path, _OFFSETS.fullmatch(path.name)) for path in sorted(cache_folder("json-index").glob("*.npy"))]
    return [
        Entry(match[1][:12], "json-index", "", f"rows of content {match[1][:12]}", match[2], (path,))
        for path, match in found
        if match
    ]


def hub_faults(entry: Entry) -> list[str]:
    """Return faults of the cached ranges of one remote file: their list, their length, and their hashes.

    The hash of a whole file is its address; only a file that is cached whole can be compared with it.
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
    """Return faults of a file of offsets: its length, or the hash of its numbers."""
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
    """Map the address of a content to the model and the file that have it, by the cached listings."""
    owners: dict[str, tuple[str, str]] = {}
    for path in sorted(folder.glob("*/*.json")):
        try:
            files = json.loads(path.read_bytes())["files"]
            owners |= {str(of[1]): (path.parent.name.replace("--", "/"), name) for name, of in files.items() if of}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            continue  # a damaged listing is fetched again when it is needed
    return owners
