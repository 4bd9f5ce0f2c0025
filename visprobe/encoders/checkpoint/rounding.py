"""Comparison of a weight with that of the base, as stored or rounded to fewer bits."""

from __future__ import annotations

from collections.abc import Iterable

import torch

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
