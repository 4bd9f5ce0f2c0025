"""Alignment and uniformity of features on the unit sphere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.intervals.jackknife import Replicated, replicate_mean
from visprobe.metrics.matrices import unit_rows

_CHUNK = 1024  # rows of the Gram matrix held at once


def alignment(x: ArrayLike, y: ArrayLike, power: float = 2.0) -> Replicated:
    """Mean distance, to a power, of two views of each image, and the mean without each image in turn.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 2.
        y: The same images in another view (crop, augmentation), shape (n, d).
        power: The paper's alpha.

    Returns:
        Values in [0, 2 ** power]: 0 where both views have the same direction.

    Raises:
        ValueError: As `visprobe.metrics.matrices.unit_rows`, or if the shapes differ.

    Source:
        Wang & Isola 2020 (2005.10242), eq. 4.
    """
    if np.shape(x) != np.shape(y):
        raise ValueError(f"shapes {np.shape(x)} and {np.shape(y)} differ: they are not views by one encoder")
    u, v = unit_rows(x, 2, "alignment"), unit_rows(y, 2, "alignment")
    return replicate_mean(np.linalg.norm(u - v, axis=1) ** power)


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
