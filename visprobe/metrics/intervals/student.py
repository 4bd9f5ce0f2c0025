"""Student's t: interval and tests of a value with its standard error."""

from __future__ import annotations

from typing import NamedTuple

from scipy.special import stdtr, stdtrit

from visprobe.metrics.intervals.estimate import Estimate, Scale


class Student(NamedTuple):
    """Value and standard error, from which Student's t gives an interval and tests.

    Attributes:
        value: Point estimate.
        error: Its standard error, in the unit of the value.
        freedom: Degrees of freedom of the standard error.
        n: Number of independent units.
        method: Method of the standard error: "delete-one jackknife".
    """

    value: float
    error: float
    freedom: float
    n: int
    method: str

    def estimate(self, scale: Scale, level: float = 0.95) -> Estimate:
        """Return the value with its interval, -/+ t standard errors, cut at the ends of the scale.

        Args:
            scale: Unit and range of the value.
            level: Nominal coverage.
        """
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error
        low, high = max(self.value - half, scale.low), min(self.value + half, scale.high)
        return Estimate(self.value, low, high, self.n, scale.unit, f"{self.method} {100 * level:g} %")

    def p_zero(self) -> float:
        """Return the two-sided p that the true value is 0."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))

    def p_positive(self) -> float:
        """Return the one-sided p that the true value is not above 0."""
        if self.error == 0:
            return float(self.value <= 0)
        return float(stdtr(self.freedom, -self.value / self.error))
