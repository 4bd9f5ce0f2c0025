"""The index of a checkpoint in shards (`*.index.json`): which file holds which tensor."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.tensors import DAMAGED
from visprobe.io.json_object import INDEX, read_object

SHARD_OF = re.compile(r"-(\d+)-of-(\d+)\.\w+$")


def read_index(folder: Folder, index: str) -> tuple[dict[str, set[str]], int]:
    """The names of tensors that each shard must hold, and the bytes read to know it.

    Args:
        folder: Where the index and its shards lie.
        index: Name of the index.

    Returns:
        Names of tensors by shard, sorted by shard; size of the index in bytes.

    Raises:
        CheckpointError: If the index is damaged, or a shard is absent or lies elsewhere.
    """
    path, inside = folder.fetch(index), index[: index.rfind("/") + 1]
    try:
        shard_of = {str(k): f"{inside}{v}" for k, v in read_object(path, INDEX)["weight_map"].items()}
    except (KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of shards: {error!r}", hint=DAMAGED) from error
    if not shard_of:
        raise CheckpointError(f"{path} names no tensors", hint=DAMAGED)
    names: dict[str, set[str]] = {shard: set() for shard in sorted(set(shard_of.values()))}
    for name, shard in shard_of.items():
        names[shard].add(name)
    _check_shards(path, list(names), set(folder.names()))
    return names, path.stat().st_size


def check_promise(index: str, shard: str, listed: Collection[str], there: Collection[str]) -> None:
    """All of `listed` are `there`.

    Raises:
        CheckpointError: If the shard lacks tensors that the index lists.
    """
    if absent := sorted(set(listed) - set(there)):
        raise CheckpointError(
            f"{index} promises {len(absent)} tensors that {shard} does not hold, {absent[0]!r} among them", hint=DAMAGED
        )


def _check_shards(path: Path, shards: list[str], there: set[str]) -> None:
    if outside := [shard for shard in shards if _is_outside(PurePosixPath(shard))]:
        raise CheckpointError(f"{path} names {outside[0]!r}, which is not a file below its folder", hint=DAMAGED)
    if absent := [shard for shard in shards if shard not in there]:
        raise CheckpointError(f"{path} names shards that are not there: {', '.join(absent)}", hint=DAMAGED)
    numbers = [(int(m[1]), int(m[2])) for m in map(SHARD_OF.search, shards) if m]
    total = max((of for _, of in numbers), default=0)
    if numbers and (unlisted := sorted(set(range(1, total + 1)) - {number for number, _ in numbers})):
        raise CheckpointError(f"{path} does not name shard {unlisted[0]} of {total}", hint=DAMAGED)


def _is_outside(shard: PurePosixPath) -> bool:
    return shard.is_absolute() or ".." in shard.parts or "\\" in str(shard)
