"""Scan of a directory tree of checkpoints: one row each, read from headers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from visprobe.encoders.checkpoint.hashing import rounding
from visprobe.encoders.checkpoint.opened import Checkpoint
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.families import MODEL_OF
from visprobe.encoders.load import check_headers, described, load_encoder
from visprobe.encoders.processor import Resolution
from visprobe.encoders.structure.layout import Layout, keys_of
from visprobe.errors import CheckpointError, VisprobeError
from visprobe.io.hub.repository import list_collection, list_models, open_folder
from visprobe.io.walk import model_folders

_ORIGINAL = {"L": "LLaVA (original)", "I": "InternVL (original)"}


@dataclass(frozen=True)
class ScanRow:
    """Row of a scan: one checkpoint.

    Attributes:
        path: Folder or hub id.
        family: Family of the multimodal model, or of the tower if it is bare ("LLaVA-OneVision", "siglip").
        layout: Naming scheme of its tensors ("A", "L", "bare").
        container: File format of its tensors ("safetensors", "bin").
        tower: Name or type of the tower.
        blocks: Blocks of the tower.
        tower_params: Weights of the tower.
        connector_params: Weights of the connector.
        dtype: Stored dtype or dtypes of both.
        consumed: Site that the MLLM reads.
        off_path: Weight groups that the MLLM's loss never reaches.
        off_path_params: Weights in them.
        bytes_stored: Bytes of all its tensors.
        bytes_needed: Bytes of tower and connector.
        notes: Warnings for the reader.
        tower_hash: SHA-256 of the tower's weights, if asked for.
        projector_hash: SHA-256 of the connector's weights, if asked for.
        changed: Weight groups that differ from the base, if one was given and it has the same shape; being rounded to
            bfloat16 or float16 is no difference.
        rounded: Dtype that weights of the base were rounded to, if they were not changed otherwise ("bfloat16").
        problem: Reason why it cannot be loaded; everything above but the path is then empty.
        hint: Remedy for the problem.
    """

    path: str
    family: str = ""
    layout: str = ""
    container: str = ""
    tower: str = ""
    blocks: int = 0
    tower_params: int = 0
    connector_params: int = 0
    dtype: str = ""
    consumed: str = ""
    off_path: tuple[str, ...] = ()
    off_path_params: int = 0
    bytes_stored: int = 0
    bytes_needed: int = 0
    notes: tuple[str, ...] = ()
    tower_hash: str | None = None
    projector_hash: str | None = None
    changed: tuple[str, ...] | None = None
    rounded: str | None = None
    problem: str | None = None
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return asdict(self)


def scan(
    places: Sequence[str | Path],
    *,
    hashes: bool = False,
    base: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[ScanRow]:
    """Return one row per checkpoint under `places`, in the order found.

    Args:
        places: Directories, walked to the bottom, links included; hub ids; authors and collections of the hub.
        hashes: True to read and hash towers and connectors.
        base: A checkpoint that the others are compared with, weight by weight; implies `hashes`.
        progress: Called with (stage, done, total).

    Returns:
        One row per checkpoint; one that cannot be loaded has a `problem`.

    Raises:
        CheckpointError: If a place does not exist, or the base cannot be read.
    """
    specs = list(dict.fromkeys(spec for place in places for spec in _specs(str(place))))
    start = load_encoder(base) if base is not None else None
    rows = []
    for number, spec in enumerate(specs, start=1):
        rows.append(_row(spec, hashes=hashes or start is not None, base=start))
        if progress:
            progress("scan", number, len(specs))
    return rows


def same_towers(rows: Sequence[ScanRow]) -> list[list[str]]:
    """Return paths of the checkpoints that share one tower, byte for byte, in groups of two or more."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.tower_hash:
            groups.setdefault(row.tower_hash, []).append(row.path)
    return [paths for paths in groups.values() if len(paths) > 1]


def _specs(place: str) -> Iterator[str]:
    if Path(place).is_dir():
        yield from map(str, model_folders(Path(place)))
    elif Path(place).is_file():
        yield place
    elif place.count("/") == 1:
        yield str(open_folder(place))
    elif place.startswith("collections/") and place.count("/") == 2:
        yield from list_collection(place.removeprefix("collections/"))
    elif "/" not in place:
        yield from _of_author(place)
    else:
        raise CheckpointError(
            f"{place} does not exist",
            hint="Give a directory, a hub id (org/name), an author of the hub, or collections/OWNER/SLUG.",
        )


def _of_author(place: str) -> list[str]:
    try:
        models = list_models(place)
    except CheckpointError as error:
        raise CheckpointError(f"{place} is not a directory here, and {error.message}", hint=error.hint) from error
    if not models:
        raise CheckpointError(
            f"{place} is neither a directory here nor an author of models on the hub", hint="Check the spelling."
        )
    return models


def _row(spec: str, *, hashes: bool, base: VisionEncoder | None) -> ScanRow:
    try:
        checkpoint, layout = described(spec, Resolution())
        check_headers(checkpoint, layout)
        row = _described(checkpoint, layout)
        return _hashed(row, base) if hashes else row
    except VisprobeError as error:
        return ScanRow(spec, problem=error.message, hint=error.hint)
    except OSError as error:
        return ScanRow(spec, problem=f"{error.filename}: {error.strerror}", hint="Check the permissions.")


def _described(checkpoint: Checkpoint, layout: Layout) -> ScanRow:
    tower, connector = keys_of(layout.tower.values()), keys_of(layout.projector.values())
    needed = [checkpoint.tensors[key] for key in dict.fromkeys((*tower, *connector))]
    beyond, group_of = layout.off_path(layout.tower), layout.family.weight_group
    unused = keys_of(source for name, source in layout.tower.items() if group_of(name, layout.config) in beyond)
    return ScanRow(
        path=checkpoint.spec,
        family=_family(checkpoint, layout),
        layout=layout.name,
        container=checkpoint.tensors.container,
        tower=layout.tower_name,
        blocks=layout.family.depth(layout.config),
        tower_params=_params(checkpoint, tower),
        connector_params=_params(checkpoint, connector),
        dtype="+".join(sorted({entry.dtype for entry in needed})),
        consumed=layout.consumed,
        off_path=beyond,
        off_path_params=_params(checkpoint, unused),
        bytes_stored=sum(entry.nbytes for entry in checkpoint.tensors.values()),
        bytes_needed=sum(entry.nbytes for entry in needed),
        notes=(*checkpoint.notes, *checkpoint.tensors.notes, *layout.warnings),
    )


def _params(checkpoint: Checkpoint, keys: Sequence[str]) -> int:
    return sum(math.prod(checkpoint.tensors[key].shape) for key in keys)


def _family(checkpoint: Checkpoint, layout: Layout) -> str:
    if layout.name == "bare":
        return layout.family.name
    if layout.name in _ORIGINAL:
        return _ORIGINAL[layout.name]
    model = MODEL_OF.get(str(checkpoint.raw.get("model_type")))
    return model.name if model else str(checkpoint.raw.get("model_type"))


def _hashed(row: ScanRow, base: VisionEncoder | None) -> ScanRow:
    encoder = load_encoder(row.path)
    row = replace(row, tower_hash=encoder.tower_hash, projector_hash=encoder.projector_hash)
    return _compared(row, base, encoder) if base is not None else row


def _compared(row: ScanRow, base: VisionEncoder, encoder: VisionEncoder) -> ScanRow:
    old, new = base.weights(), encoder.weights()
    if {name: weight.shape for name, weight in old.items()} != {name: weight.shape for name, weight in new.items()}:
        return row
    kinds = {name: rounding(old[name], new[name]) for name in old}
    changed = tuple(sorted({base.weight_group(name) for name, kind in kinds.items() if kind is None}))
    return replace(
        row, changed=changed, rounded=" and ".join(sorted({kind for kind in kinds.values() if kind})) or None
    )
