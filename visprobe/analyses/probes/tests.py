"""p-values of paired differences from their jackknife intervals."""

from __future__ import annotations

from scipy.special import stdtr

from visprobe.metrics.intervals.jackknife import Interval


def p_value(interval: Interval) -> float:
    """Two-sided p-value in [0, 1] that a statistic is zero, by Student's t of its jackknife standard error."""
    if interval.standard_error == 0:
        return 1.0 if interval.value == 0 else 0.0
    return float(2 * stdtr(interval.n - 1, -abs(interval.value) / interval.standard_error))
