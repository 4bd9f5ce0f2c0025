"""Change of each image's features, unit by unit, between two checkpoints whose units correspond."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.matrices import finite, unit_rows


class Moved(NamedTuple):
    """Change of each image's features, float64 of shape (n,) each.

    Attributes:
        cosine: Cosine similarity with the base's features, in [-1, 1].
        angle: Angle between them in radians, in [0, pi].
        relative_error: L2 norm of the difference over that of the base's features, >= 0.
    """

    cosine: Array
    angle: Array
    relative_error: Array


def unaligned(base: ArrayLike, other: ArrayLike) -> Moved:
    """Compare features as they stand, neither centred nor rotated; means with intervals are by `replicate_mean`.

    CKA and Procrustes do not see a rotation; these do. They have a meaning only where unit i of `other` grew out
    of unit i of the base.

    Args:
        base: Any real dtype, shape (n, d), one row per image.
        other: The same images in the same order, shape (n, d).

    Raises:
        ValueError: If the shapes differ, a value is not finite, or a row is zero.
    """
    if np.shape(base) != np.shape(other):
        raise ValueError(f"shapes {np.shape(base)} and {np.shape(other)} differ: their units do not correspond")
    a, b = finite(base, 1, "the unaligned distance"), finite(other, 1, "the unaligned distance")
    u, v = unit_rows(a, 1, "the unaligned distance"), unit_rows(b, 1, "the unaligned distance")
    # arccos of a cosine near 1 has half the digits; this form has all of them (Kahan 2006).
    angle = 2 * np.arctan2(np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1))
    largest = np.abs(a).max(1, keepdims=True)
    error = np.linalg.norm((b - a) / largest, axis=1) / np.linalg.norm(a / largest, axis=1)
    return Moved(np.cos(angle), angle, error)
