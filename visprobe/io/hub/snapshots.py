"""Folders of huggingface_hub's cache, given as paths: which snapshot of a model they mean."""

from __future__ import annotations

from pathlib import Path

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder

_MODEL, _SNAPSHOTS = "models--", "snapshots"
_OTHERS = {"datasets--": "a dataset", "spaces--": "a space"}


def open_local(path: Path) -> LocalFolder:
    """The folder `path`; for a model's folder in the hub's cache, or its `snapshots`, the snapshot that it holds.

    Of several, the one that the branch main means is taken, as for the model's id, and a note says so.

    Raises:
        CheckpointError: If it holds several and none is main's, none at all, or something else than a model.
    """
    if (path / "config.json").is_file():
        return LocalFolder(path)
    if repositories := sorted(place.parent for pattern in _REPOSITORIES for place in path.glob(pattern)):
        raise _several(path, "the hub's cache", repositories)
    repository = path.parent if path.name == _SNAPSHOTS else path
    for prefix, what in _OTHERS.items():
        if any(part.startswith(prefix) for part in path.absolute().parts[-3:]):
            raise CheckpointError(f"{path} is {what} in the hub's cache", hint="Give the folder of a model: models--…")
    if not repository.name.startswith(_MODEL) or not repository.is_dir():
        return LocalFolder(path)
    return _snapshot(path, repository)


_REPOSITORIES = tuple(f"{above}{_MODEL}*/{_SNAPSHOTS}" for above in ("", "hub/"))


def _snapshot(path: Path, repository: Path) -> LocalFolder:
    main = repository / "refs" / "main"
    named = main.read_text().strip() if main.is_file() else None
    found = sorted(place for place in repository.glob(f"{_SNAPSHOTS}/*") if place.is_dir())
    taken = [place for place in found if place.name == named or len(found) == 1]
    if not taken:
        raise _several(path, "a model in the hub's cache", found)
    folder = LocalFolder(taken[0])
    if others := [str(place) for place in found if place != taken[0]]:
        folder.notes.append(f"of the snapshots in {path} that of main is read, {named}, and not {', '.join(others)}")
    return folder


def _several(path: Path, what: str, found: list[Path]) -> CheckpointError:
    shown = f"{', '.join(map(str, found[:5]))}{f' and {len(found) - 5} more' if len(found) > 5 else ''}"
    return CheckpointError(
        f"{path} is {what}, with {len(found)} to choose from",
        hint=f"Give one of them: {shown}." if found else "Download the model again: no snapshot is there.",
    )
