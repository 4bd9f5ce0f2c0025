"""Provenance of an encoder, so that a number can be traced back to files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """Record of the files that were read and how they were interpreted.

    Attributes:
        path: Checkpoint folder or hub id as given.
        commit: Commit that was read, for a checkpoint of the hub.
        family: Family of the tower ("siglip").
        layout: On-disk layout ("A", "B", "C", "D": LLaVA of transformers; "L": original LLaVA; "bare").
        tower: Name of the tower where the checkpoint tells it, else the `model_type` of its configuration.
        dtype: Stored dtype or dtypes of tower and projector.
        params: Number of weights of tower and projector.
        bytes_read: Bytes read from the weight files, headers included.
        consumed: Site that the MLLM reads.
        why: Reason for that site.
        off_path: Weight groups that the MLLM's loss never reaches.
        warnings: Warnings for the reader.
    """

    path: str
    family: str
    layout: str
    tower: str
    dtype: str
    params: int
    bytes_read: int
    consumed: str
    why: str
    off_path: tuple[str, ...]
    warnings: tuple[str, ...]
    commit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the provenance as plain JSON values."""
        return asdict(self)
