"""Equality of weights: content hashes that do not depend on the layout on disk, and equality after rounding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names (sorted), dtypes, shapes and bytes of `tensors`."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


_COARSER = (torch.bfloat16, torch.float16)


def rounding(base: torch.Tensor, other: torch.Tensor) -> str | None:
    """Return how `other` was made from `base`, whatever dtypes they are stored in.

    Args:
        base: Weight of the base.
        other: Weight of the same shape.

    Returns:
        "" if their values are the same, the dtype that `base` was rounded to ("bfloat16"), or None for anything else.
    """
    wide = torch.promote_types(base.dtype, other.dtype)
    if torch.equal(base.to(wide), other.to(wide)):
        return ""
    kinds = (kind for kind in _COARSER if torch.equal(base.to(kind).to(wide), other.to(wide)))
    return next((str(kind).removeprefix("torch.") for kind in kinds), None)


def all_roundings(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> str | None:
    """Compare several weights by `rounding`: "" if all are equal, the dtypes that some were rounded to, or None."""
    kinds: set[str] = set()
    for base, other in pairs:
        if (kind := rounding(base, other)) is None:
            return None
        kinds.add(kind)
    return " and ".join(sorted(kinds - {""}))
