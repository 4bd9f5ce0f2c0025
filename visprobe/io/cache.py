"""Where this machine keeps what can be made or fetched again, and what of it may be removed."""

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
    """Folder `name` in $VISPROBE_CACHE, or in the user's cache folder of this platform."""
    import platformdirs

    return Path(os.environ.get("VISPROBE_CACHE") or platformdirs.user_cache_dir("visprobe")) / name


@dataclass(frozen=True)
class Entry:
    """Files of a cache that belong together: what one checkpoint made of one image set, or one remote file.

    Attributes:
        id: 12 hexadecimal digits that name it.
        cache: The cache that it lies in: "features", "hub", "json-index".
        checkpoint: Whose it is, as far as that was noted.
        images: Of which images, or which file.
        detail: What else tells it from others.
        files: Its files.
    """

    id: str
    cache: str
    checkpoint: str
    images: str
    detail: str
    files: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Room that its files take on the disk, holes of sparse files aside."""
        return sum(size_on_disk(path) for path in self.files)

    @property
    def written(self) -> float:
        """When it was last written to, in seconds since 1970."""
        return max((path.stat().st_mtime for path in self.files if path.exists()), default=0.0)


def size_on_disk(path: Path) -> int:
    """Bytes that a file takes on the disk; 0 if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return min(status.st_size, getattr(status, "st_blocks", 1 << 60) * 512)  # Windows does not count blocks


def abandoned(folder: Path) -> list[Path]:
    """Temporary files anywhere in `folder` that killed writers left; those of the last hour may have a writer."""
    temporary = [path for path in folder.rglob(f".*{MARK}*") if path.is_file()]
    return sorted(path for path in temporary if time.time() - path.stat().st_mtime > ABANDONED)


@dataclass
class Removed:
    """What `remove` did: bytes of room that are free now, and files that a running command holds and that stay."""

    freed: int = 0
    in_use: list[Path] = field(default_factory=list)


def remove(paths: Sequence[Path], folder: Path) -> Removed:
    """Delete files of a cache.

    Args:
        paths: Files; one that is gone already is no fault.
        folder: Folder of the cache. What does not lie in it is not touched, whatever link leads there.

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
    """The lock that writers of this folder take; it stays, as another process may be waiting for it."""
    lock = next((folder / name for name in _LOCKS if (folder / name).is_file()), None)
    return FileLock(lock, timeout=1) if lock else nullcontext()


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
