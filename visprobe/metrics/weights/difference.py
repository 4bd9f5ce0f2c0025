"""Distance between two stored tensors of the same name."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class WeightChange(NamedTuple):
    """Sums over weights, so that tensors add up to groups (add fields, never average ratios).

    Attributes:
        squared_change: Sum of squared differences.
        squared_base: Sum of squared base weights.
        equal: Number of weights that are exactly equal at the coarser of the two dtypes.
        weights: Number of weights.
    """

    squared_change: float
    squared_base: float
    equal: int
    weights: int

    @property
    def relative_change(self) -> float:
        """Frobenius norm of the change over that of the base, >= 0; infinite if only the base is zero."""
        if self.squared_base == 0:
            return math.inf if self.squared_change else 0.0
        return math.sqrt(self.squared_change / self.squared_base)

    @property
    def share_equal(self) -> float:
        """Share of exactly equal weights, in [0, 1]."""
        return self.equal / self.weights


def weight_change(base: Tensor, other: Tensor) -> WeightChange:
    """Compare a tensor with its base, in float64 from the stored dtypes.

    If `other` is stored more coarsely than the base (bfloat16 against float32), the base is rounded to that
    dtype first, as saving would do: otherwise an untouched tensor would seem changed by the rounding.

    Args:
        base: Floating point tensor of any shape.
        other: Tensor of the same shape.

    Raises:
        ValueError: If the shapes differ.
    """
    if base.shape != other.shape:
        raise ValueError(f"shapes {tuple(base.shape)} and {tuple(other.shape)} differ")
    dtype = coarser(base.dtype, other.dtype)
    origin = base.to(dtype)
    change = other.double() - origin.double()
    return WeightChange(
        squared_change=float(change.square().sum()),
        squared_base=float(origin.double().square().sum()),
        equal=int((origin == other.to(dtype)).sum()),
        weights=base.numel(),
    )


def total(changes: list[WeightChange]) -> WeightChange:
    """Add up a group of tensors: sqrt(sum |change|^2 / sum |base|^2) then is the group's relative change."""
    return WeightChange(
        squared_change=math.fsum(change.squared_change for change in changes),
        squared_base=math.fsum(change.squared_base for change in changes),
        equal=sum(change.equal for change in changes),
        weights=sum(change.weights for change in changes),
    )


def coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """Return the floating point dtype with the wider spacing: bfloat16 of bfloat16 and float16."""
    return a if torch.finfo(a).eps >= torch.finfo(b).eps else b
