"""Means over random draws and images at once, where every draw is tried on the same images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from visprobe.metrics.intervals.estimate import FRACTION, Estimate, Scale
from visprobe.metrics.intervals.proportions import z_quantile
from visprobe.metrics.intervals.student import Student


def crossed_mean(
    values: NDArray[np.floating] | NDArray[np.bool_], level: float = 0.95, scale: Scale = FRACTION
) -> Estimate:
    """Compute a mean over draws and units, with an interval for other draws and other units.

    Args:
        values: Shape (draws, n), two or more of each: 1 for right and 0 for wrong, or the difference of two of these;
            the same n units in every row.
        level: Nominal coverage.
        scale: Unit and range of the mean.

    Returns:
        The mean and a Student t interval. The variance is that between draws plus that between units less what both
        count twice; the degrees of freedom are Satterthwaite's. Where no unit differs from another the standard error
        is z / n, which is as wide as Wilson's interval at 0 of n.

    Raises:
        ValueError: If there are fewer than two draws or units.

    Source:
        Cameron, Gelbach & Miller 2011, equation 2.11 (two-way clusters); Satterthwaite 1946.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or min(array.shape) < 2:
        raise ValueError(f"need two draws and two units or more, got values of shape {array.shape}")
    draws, n = array.shape
    mean, by_draw, by_unit = float(array.mean()), array.mean(1), array.mean(0)
    between_draws = float(by_draw.var(ddof=1)) / draws
    between_units = max(float(by_unit.var(ddof=1)) / n, (z_quantile(level) / n) ** 2)
    residual = array - by_draw[:, None] - by_unit + mean
    # Both one-way variances contain that of the single value; it is subtracted once.
    twice = float(np.square(residual).sum()) / ((draws - 1) * (n - 1) * draws * n)
    variance = max(between_draws + between_units - twice, between_draws, between_units)
    freedom = (between_draws + between_units) ** 2 / (between_draws**2 / (draws - 1) + between_units**2 / (n - 1))
    method = f"t over {draws} draws and the images"
    return Student(mean, math.sqrt(variance), freedom, n, method).estimate(scale, level)
