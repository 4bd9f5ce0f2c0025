"""Measures of a map's focus and localisation, each with its value for a uniform map.

Maps are signed. Patches that speak against the score are not where a model looks, so the mass of a map is its positive
part; a map without positive values has no mass, and its measures are None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError

Floats = NDArray[np.float64]
Value = float | bool | None


def entropy(values: ArrayLike) -> float | None:
    """Compute the entropy of a map's mass over its patches, as a share of the largest possible, log(patches).

    Args:
        values: Signed map of shape (rows, columns).

    Returns:
        0 (one patch has all mass) to 1 (all patches have the same); None without mass or with one patch only.

    Raises:
        DataError: If `values` is not a map of finite numbers.

    Source:
        Shannon 1948.
    """
    mass = mass_of(values)
    if mass is None or mass.size == 1:
        return None
    some = mass[mass > 0]
    return float(np.clip(-(some * np.log(some)).sum() / np.log(mass.size), 0, 1))


def gini(values: ArrayLike) -> float | None:
    """Compute the Gini coefficient of a map's mass: half the mean absolute difference of two patches over the mean.

    Args:
        values: Signed map of shape (rows, columns).

    Returns:
        0 (all patches have the same) to 1 - 1 / patches (one patch has all mass); None without mass.

    Raises:
        DataError: If `values` is not a map of finite numbers.

    Source:
        Gini 1912; for sparsity Hurley & Rickard 2009 (0811.4706).
    """
    mass = mass_of(values)
    if mass is None:
        return None
    n = mass.size
    # The sum of |a - b| over all ordered pairs is 2 sum of (2 i - n - 1) times the i-th smallest.
    return float(max(0, ((2 * np.arange(1, n + 1) - n - 1) * np.sort(mass.ravel())).sum() / n))


def border_mass(values: ArrayLike) -> float | None:
    """Compute the share of a map's mass on its outermost patches, where registers and artefacts gather.

    Args:
        values: Signed map of shape (rows, columns).

    Returns:
        0 to 1, with `border_share` as baseline; None without mass.

    Raises:
        DataError: If `values` is not a map of finite numbers.
    """
    mass = mass_of(values)
    if mass is None:
        return None
    mass[1:-1, 1:-1] = 0
    return float(mass.sum())


def border_share(grid: Grid) -> float:
    """Return the share of the patches of a grid that are outermost."""
    rows, columns = grid
    return 1 - max(rows - 2, 0) * max(columns - 2, 0) / (rows * columns)


def pointing(values: ArrayLike, region: ArrayLike) -> bool | None:
    """Play the pointing game: return whether the largest value lies in a region.

    Args:
        values: Signed map of shape (rows, columns).
        region: Share of each patch that the region fills, the same shape. A patch is in the region if it is filled
            at least half as much as the patch that is filled most.

    Returns:
        True or False; None without a positive value. If several patches have the largest value, all of them must be in
        the region: a uniform map does not point.

    Raises:
        DataError: If map and region do not fit each other.

    Source:
        Zhang et al. 2016 (1608.00507), whose rule counts pixels within 15 of the object as well.
    """
    array, shares = _finite(values), _fitting(region, values)
    return None if array.max() <= 0 else bool(_inside(shares)[array == array.max()].all())


def mass_inside(values: ArrayLike, region: ArrayLike) -> float | None:
    """Compute the share of a map's mass in a region; a patch that the region fills in part counts in part.

    Args:
        values: Signed map of shape (rows, columns).
        region: Share of each patch that the region fills, the same shape.

    Returns:
        0 to 1, with the share of the grid that the region fills as baseline; None without mass.

    Raises:
        DataError: If map and region do not fit each other.

    Source:
        Energy-based pointing game: Wang et al. 2020 (1910.01279).
    """
    mass, shares = mass_of(values), _fitting(region, values)
    return None if mass is None else float((mass * shares).sum())


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Compute Spearman's correlation of two signed maps over their patches.

    Args:
        first: Signed map of shape (rows, columns).
        second: Signed map of the same shape.

    Returns:
        -1 to 1, ties averaged; None if a map is constant.

    Raises:
        DataError: If the maps differ in shape or are not finite.

    Source:
        Spearman 1904; for attribution maps Adebayo et al. 2018 (1810.03292).
    """
    ranks = [rankdata(array) for array in (_finite(first), _fitting(second, first))]
    a, b = (each - each.mean() for each in ranks)
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / length, -1, 1)) if length else None


class Measure(NamedTuple):
    """A measure of a map.

    Attributes:
        function: Function of a map, and of a region if needed, to the value.
        needs_region: True if `function` takes a region.
        unit: Unit of the value.
        uniform: Function of grid and region to the value of a uniform map; for pointing, the chance that a random patch
            is in the region.
    """

    function: Callable[..., Value]
    needs_region: bool
    unit: str
    uniform: Callable[[Grid, ArrayLike | None], float]


def _chance(grid: Grid, region: ArrayLike | None) -> float:
    return float(_inside(_fitting(region, np.zeros(grid))).mean())


def _filled(grid: Grid, region: ArrayLike | None) -> float:
    return float(_fitting(region, np.zeros(grid)).mean())


MEASURES = {
    "entropy": Measure(entropy, False, "share of log(patches)", lambda grid, region: 1.0),
    "gini": Measure(gini, False, "Gini coefficient", lambda grid, region: 0.0),
    "border_mass": Measure(border_mass, False, "share of mass", lambda grid, region: border_share(grid)),
    "pointing": Measure(pointing, True, "share of images", _chance),
    "mass_inside": Measure(mass_inside, True, "share of mass", _filled),
}


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise DataError(
            f"a map has finite values of shape (rows, columns); this one has the shape {array.shape}"
            + (" and values that are not finite" if not np.isfinite(array).all() else ""),
            hint="Give the values of one map as the method returns them.",
        )
    return array


def mass_of(values: ArrayLike) -> Floats | None:
    """Return the positive part of a map, scaled to sum 1; None if there is none.

    Args:
        values: Signed map of shape (rows, columns).

    Raises:
        DataError: If `values` is not a map of finite numbers.
    """
    positive = np.clip(_finite(values), 0, None)
    if not positive.any():
        return None
    scaled = positive / positive.max()  # keeps the sum of very small numbers out of the subnormal range
    mass: Floats = scaled / scaled.sum()
    return mass


def _fitting(other: ArrayLike | None, values: ArrayLike) -> Floats:
    array, shape = _finite(other if other is not None else ()), np.shape(values)
    if array.shape != shape:
        raise DataError(
            f"a map of {shape} patches cannot be compared with one of {array.shape}",
            hint="Lay the region on the grid of the map, and compare maps of one site.",
        )
    return array


def _inside(region: Floats) -> NDArray[np.bool_]:
    held: NDArray[np.bool_] = (region >= region.max() / 2) & (region > 0)
    return held
