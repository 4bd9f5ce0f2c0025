"""Uniformity of features on the unit sphere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import unit_rows

_CHUNK = 1024  # rows of the Gram matrix held at once


def uniformity(features: ArrayLike, t: float = 2.0) -> Replicated:
    """Compute the log of the mean potential exp(-t |u - v|^2) over pairs of images, also without each image.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 3.
        t: Inverse squared width of the potential.

    Returns:
        Values in [-4 t, 0]: 0 where all images have one direction, about -2 t where they are spread evenly over a
        sphere of many dimensions.

    Raises:
        ValueError: If the shape does not fit, a value is not finite, or a row is zero.

    Source:
        Wang & Isola 2020 (2005.10242), eq. 5 and their code: pairs of two different images only.
    """
    units = unit_rows(features, 3, "uniformity")
    n, sums = len(units), np.empty(len(units))
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        potential = np.exp(2 * t * (units[part] @ units.T - 1))
        sums[part] = potential.sum(1) - 1  # less each image with itself
    total = float(sums.sum())
    without = np.log((total - 2 * sums) / ((n - 1) * (n - 2)))
    return Replicated(math.log(total / (n * (n - 1))), without)
