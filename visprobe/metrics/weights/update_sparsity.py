"""Share of a tensor's weights that training left unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from visprobe.metrics.weights.difference import coarser

# bfloat16 values lie 2**-8 to 2**-7 of a weight apart: updates below half of that vanish when stored.
RELATIVE_TOLERANCES = (1e-5, 1e-4, 1e-3)


class Unchanged(NamedTuple):
    """Counts of weights, so that tensors add up to groups.

    Attributes:
        equal: Number of weights exactly equal at the dtype of the comparison.
        within: Number of weights changed by at most each tolerance.
        weights: Number of weights.
    """

    equal: int
    within: tuple[int, ...]
    weights: int

    @property
    def share_equal(self) -> float:
        """Update sparsity, in [0, 1]: share of exactly equal weights."""
        return self.equal / self.weights

    @property
    def shares_within(self) -> tuple[float, ...]:
        """Share of weights changed by at most each tolerance, in [0, 1]."""
        return tuple(count / self.weights for count in self.within)


def unchanged(
    base: Tensor,
    other: Tensor,
    tolerances: Sequence[float] = RELATIVE_TOLERANCES,
    relative: bool = True,
    dtype: torch.dtype | None = None,
) -> Unchanged:
    """Count the weights that are equal, and those that changed by no more than a tolerance.

    A checkpoint stored in bfloat16 seems sparser than one in float32: compare arms at one dtype.

    Args:
        base: Floating point tensor of any shape, with at least one weight.
        other: Tensor of the same shape.
        tolerances: Bounds on |other - base|, times |base| if `relative`.
        relative: True for tolerances relative to each weight of the base, False for absolute ones, as in the source.
        dtype: Round both to this first; by default to the coarser of their own two.

    Returns:
        Counts; differences are taken in float64.

    Raises:
        ValueError: If the shapes differ, there is no weight, or one is not finite.

    Source:
        Mukherjee et al. 2025 (2505.11711), section 3: share of weights with |change| <= 1e-5.
    """
    if base.shape != other.shape or not base.numel():
        raise ValueError(f"shapes {tuple(base.shape)} and {tuple(other.shape)} differ or are empty")
    stored = dtype or coarser(base.dtype, other.dtype)
    origin, result = base.to(stored).double(), other.to(stored).double()
    if not (torch.isfinite(origin).all() and torch.isfinite(result).all()):
        raise ValueError(f"a weight is NaN or infinite at {stored}")
    change = (result - origin).abs()
    bound = origin.abs() if relative else torch.ones_like(origin)
    within = tuple(int((change <= tolerance * bound).sum()) for tolerance in tolerances)
    return Unchanged(int((change == 0).sum()), within, base.numel())


def total_unchanged(parts: Sequence[Unchanged]) -> Unchanged:
    """Add up the counts of a group of tensors, counted at the same tolerances."""
    within = tuple(map(sum, zip(*(part.within for part in parts), strict=True)))
    return Unchanged(sum(part.equal for part in parts), within, sum(part.weights for part in parts))
