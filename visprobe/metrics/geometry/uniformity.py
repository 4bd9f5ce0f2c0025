"""Uniformity of features on the unit sphere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import unit_rows

_CHUNK = 1024  # rows of the Gram matrix held at once


def uniformity(features: ArrayLike, t: float = 2.0) -> Replicated:
    """Log of the mean Gaussian potential exp(-t |u - v|^2) over pairs of images, and without each image in turn.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 3.
        t: Inverse squared width of the potential.

    Returns:
        Values in [-4 t, 0]: 0 where all images have one direction, about -2 t where they are spread evenly over a
        sphere of many dimensions.

    Raises:
        ValueError: As `visprobe.metrics.matrices.unit_rows`.

    Source:
        Wang & Isola 2020 (2005.10242), eq. 5 and their code: pairs of two different images only.
    """
    units = unit_rows(features, 3, "uniformity")
    n, sums = len(units), np.empty(len(units))
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        potential = np.exp(2 * t * (units[part] @ units.T - 1))
        sums[part] = potential.sum(1) - 1  # each image with itself
    total = float(sums.sum())
    without = np.log((total - 2 * sums) / ((n - 1) * (n - 2)))
    return Replicated(math.log(total / (n * (n - 1))), without)
