"""p-values corrected for many tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array


def holm(p: ArrayLike) -> Array:
    """Adjust p-values by Holm's method, which holds under any dependence.

    Args:
        p: p-values, shape (tests,).

    Returns:
        float64 of shape (tests,), in [0, 1], at least the p-values given.

    Raises:
        ValueError: If one is not within [0, 1].

    Source:
        Holm 1979.
    """
    values = np.atleast_1d(np.asarray(p, dtype=np.float64))
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values must be in [0, 1], in one row")
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    # Running maximum: an adjusted p is never below that of a smaller p.
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
