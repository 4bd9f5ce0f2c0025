"""Estimates with their intervals, and the unit and range of a measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self


@dataclass(frozen=True)
class Estimate:
    """Number with its uncertainty.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval (equal to `value` for exact quantities).
        high: Upper end of the interval.
        n: Number of independent units behind it (images, questions, weights).
        unit: Unit of the value: "fraction", "CKA", "ratio".
        method: Method of the interval: "Wilson 95 %", "delete-one jackknife 95 %", "exact".
    """

    value: float
    low: float
    high: float
    n: int
    unit: str
    method: str

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(f"an estimate must be finite, got {self.value} [{self.low}, {self.high}]")

    @classmethod
    def exact(cls, value: float, n: int, unit: str) -> Self:
        """Return an estimate that chance has no part in: both ends equal the value."""
        return cls(value, value, value, n, unit, "exact")


class Scale(NamedTuple):
    """Unit of a measure and its range, at whose ends intervals are cut."""

    unit: str
    low: float = -math.inf
    high: float = math.inf

    @property
    def of_differences(self) -> Scale:
        """Scale of the difference of two values."""
        reach = self.high - self.low
        return Scale(self.unit, -reach, reach)


FRACTION = Scale("fraction", 0, 1)
CKA = Scale("CKA", -1, 1)
