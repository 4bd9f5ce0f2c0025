"""One number with its interval, and the Student t interval and test that most of them come from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Estimate:
    """One number with its uncertainty.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval (equal to `value` for exact quantities).
        high: Upper end of the interval.
        n: How many independent units it rests on (images, questions, weights).
        unit: What is counted or measured: "fraction", "CKA", "ratio".
        method: How the interval was made: "Wilson 95 %", "delete-one jackknife 95 %", "exact".
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
        """A number that chance has no part in."""
        return cls(value, value, value, n, unit, "exact")


class Scale(NamedTuple):
    """The unit of a measure and the values that it can take, at whose ends its intervals are cut."""

    unit: str
    low: float = -math.inf
    high: float = math.inf

    @property
    def of_differences(self) -> Scale:
        """The scale of a difference of two values."""
        reach = self.high - self.low
        return Scale(self.unit, -reach, reach)


FRACTION = Scale("fraction", 0, 1)
CKA = Scale("CKA", -1, 1)


class Student(NamedTuple):
    """A value and its standard error, of which Student's t makes an interval and tests.

    Attributes:
        value: The value.
        error: Its standard error, in the unit of the value.
        freedom: Degrees of freedom of the standard error.
        n: Number of independent units.
        method: How the standard error was made: "delete-one jackknife".
    """

    value: float
    error: float
    freedom: float
    n: int
    method: str

    def estimate(self, scale: Scale, level: float = 0.95) -> Estimate:
        """The value with its interval, -/+ t standard errors, cut at the ends of the scale.

        Args:
            scale: Unit and range.
            level: Nominal coverage.
        """
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error
        low, high = max(self.value - half, scale.low), min(self.value + half, scale.high)
        return Estimate(self.value, low, high, self.n, scale.unit, f"{self.method} {100 * level:g} %")

    def p_zero(self) -> float:
        """Two-sided p that the true value is 0."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))

    def p_positive(self) -> float:
        """One-sided p that the true value is not above 0."""
        if self.error == 0:
            return float(self.value <= 0)
        return float(stdtr(self.freedom, -self.value / self.error))
