"""Checks and scalings of feature matrices that the measures share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visprobe.metrics.arrays import Array


def finite(features: ArrayLike, least: int, measure: str) -> Array:
    """Return the features as float64, refusing those for which a measure is not defined.

    Args:
        features: Any real dtype, shape (n, d), one row per image.
        least: Least number of images.
        measure: Name of the measure, for the message.

    Raises:
        ValueError: If the shape is not (n >= least, d >= 1) or a value is not finite.
    """
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or len(array) < least or array.shape[1] < 1:
        raise ValueError(f"{measure} needs features of shape (n, d) with n >= {least} images, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("the features hold NaN or infinity")
    return array


def centred(features: ArrayLike, least: int, measure: str) -> Array:
    """Centre the columns and divide by the largest absolute value.

    Args:
        features: Any real dtype, shape (n, d), one row per image.
        least: Least number of images.
        measure: Name of the measure, for the message.

    Returns:
        float64 of shape (n, d), column means 0, largest absolute value 1.

    Raises:
        ValueError: If the shape is not (n >= least, d >= 1), a value is not finite, or all rows are equal.
    """
    array = finite(features, least, measure)
    moved: Array = array - array.mean(0)
    largest = _largest(moved)
    # The mean of equal numbers is off by rounding, which must not pass for variance.
    if largest <= 1e-13 * _largest(array):
        raise ValueError("all images have the same features: there is no variance to compare")
    moved /= largest
    return moved


def _largest(array: Array) -> float:
    """Return the largest absolute value, without a copy as large as the array."""
    return float(max(array.max(), -array.min()))


def unit_rows(features: ArrayLike, least: int, measure: str) -> Array:
    """Divide every row by its L2 norm.

    Args:
        features: Any real dtype, shape (n, d), one row per image.
        least: Least number of images.
        measure: Name of the measure, for the message.

    Returns:
        float64 of shape (n, d), rows of length one.

    Raises:
        ValueError: If the shape is not (n >= least, d >= 1), a value is not finite, or a row is zero.
    """
    array = finite(features, least, measure)
    # Divided by the largest entry first, so that squares of 1e-200 and 1e200 neither vanish nor overflow.
    largest = np.abs(array).max(1, keepdims=True)
    if not largest.all():
        raise ValueError(f"the features of image {int(largest.argmin())} are all zero: they have no direction")
    scaled = array / largest
    units: Array = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return units


def same_images(x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
    """Refuse two arrays of different numbers of images.

    Raises:
        ValueError: If the first axes differ.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} images against {len(y)}: not the same images")
