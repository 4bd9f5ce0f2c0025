"""Debiased linear CKA between two representations of the same images, with a delete-one jackknife interval.

Everything rests on the zero-diagonal Gram matrices K and L of the column-centred features, of which only four
sums are needed: T = sum_ij K_ij L_ij, S_K = sum_ij K_ij, S_L, and k.l with k_i = sum_j K_ij. Then

    HSIC = (T + S_K S_L / ((n-1)(n-2)) - 2 k.l / (n-2)) / (n (n-3)).

Each sum without image i follows from the sum with it, so the n leave-one-out values cost no more than the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]

# Features have mean squared norm 1, so HSIC is of the order of 1 / (effective dimension); this is rounding error.
_NO_VARIANCE = 1e-12


class Replicated(NamedTuple):
    """A statistic on all n images, and on the n sets that leave one image out, shape (n,)."""

    value: float
    without: Array


class Interval(NamedTuple):
    """A statistic with its jackknife standard error and interval, and the number of images."""

    value: float
    low: float
    high: float
    standard_error: float
    n: int


@dataclass(frozen=True)
class Representation:
    """Features prepared once and compared many times; made by `represent`.

    Attributes:
        features: Column-centred and scaled to mean squared norm 1, float64 of shape (n, d).
    """

    features: Array

    @cached_property
    def squared_norms(self) -> Array:
        """Squared length of each row, shape (n,)."""
        norms: Array = np.einsum("ij,ij->i", self.features, self.features)
        return norms

    @cached_property
    def row_sums(self) -> Array:
        """Row sums of the zero-diagonal Gram matrix, shape (n,)."""
        return self.times(np.ones(len(self.features)))

    @cached_property
    def own_hsic(self) -> Replicated:
        """HSIC of the representation with itself."""
        return _hsic(self, self)

    def times(self, vector: Array) -> Array:
        """Zero-diagonal Gram matrix times a vector of shape (n,)."""
        return self.features @ (vector @ self.features) - self.squared_norms * vector


def represent(features: ArrayLike) -> Representation:
    """Centre features over the whole set, in float64, and set their scale to 1.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 5 (4 for HSIC, one more to leave out).

    Raises:
        ValueError: If the shape is not (n >= 5, d >= 1), a value is not finite, or all rows are equal.
    """
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or len(array) < 5 or array.shape[1] < 1:
        raise ValueError(f"debiased CKA needs features of shape (n, d) with n >= 5 images, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("the features hold NaN or infinity")
    centred = array - array.mean(0)
    largest = np.abs(centred).max()
    # The mean of equal numbers is off by rounding; that must not be taken for variance.
    if largest <= 1e-13 * np.abs(array).max():
        raise ValueError("all images have the same features: there is no variance to compare")
    centred /= largest
    centred *= math.sqrt(len(centred)) / np.linalg.norm(centred)
    return Representation(centred)


def replicate_cka(x: Representation, y: Representation) -> Replicated:
    """Debiased linear CKA of two representations, and its value without each image in turn.

    Args:
        x: First representation, n images.
        y: Second representation of the same images in the same order; its width may differ.

    Returns:
        Values in [-1, 1]: about 0 for unrelated representations, 1 for equal ones up to rotation and scale.

    Raises:
        ValueError: If the numbers of images differ, or if all variance hangs on one image.

    Source:
        Kornblith et al. 2019 (1905.00414), eq. 3, with the unbiased HSIC of Song et al. 2012, eq. 5, as in
        Nguyen, Raghu & Kornblith 2021 (2010.15327). It equals the U-centred form of Szekely & Rizzo 2014.
    """
    if len(x.features) != len(y.features):
        raise ValueError(f"{len(x.features)} images against {len(y.features)}: not the same images")
    cross, own_x, own_y = _hsic(x, y), x.own_hsic, y.own_hsic
    if min(own_x.value, own_y.value, own_x.without.min(), own_y.without.min()) <= _NO_VARIANCE:
        raise ValueError("the variance hangs on a single image: CKA is not defined without it")
    value = cross.value / math.sqrt(own_x.value * own_y.value)
    return Replicated(value, cross.without / np.sqrt(own_x.without * own_y.without))


def jackknife(statistic: Replicated, level: float = 0.95, limit: float = 1.0) -> Interval:
    """Delete-one jackknife interval: value -/+ t(n-1) standard errors.

    Args:
        statistic: A CKA, or a difference of two CKAs made by `subtract`.
        level: Nominal coverage.
        limit: Largest absolute value the statistic can take, where the interval is cut: 1 for a CKA, 2 for a
            difference.

    Returns:
        The interval, in the unit of the statistic.

    Source:
        Efron & Stein 1981. The interval is symmetric also near 1: in simulation (`analyses/drift/card.md`) the
        plain scale covered 91-97 % from 0.2 to 0.9999999, atanh and log(1 - CKA) down to 86 % on heavy tails.
    """
    n = len(statistic.without)
    spread = statistic.without - statistic.without.mean()
    error = math.sqrt((n - 1) / n * float(spread @ spread))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    low, high = statistic.value - half, statistic.value + half
    return Interval(statistic.value, max(low, -limit), min(high, limit), error, n)


def subtract(a: Replicated, b: Replicated) -> Replicated:
    """Paired difference of two statistics over the same images."""
    return Replicated(a.value - b.value, a.without - b.without)


def debiased_cka(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Interval:
    """Debiased linear CKA of two feature arrays with its interval.

    Args:
        x: Any real dtype, shape (n, d), one row per image, n >= 5.
        y: Shape (n, e), the same images in the same order.
        level: Nominal coverage.

    Returns:
        CKA in [-1, 1]; `high` is at most 1 and `low` at least -1.

    Raises:
        ValueError: As `represent` and `replicate_cka`.
    """
    return jackknife(replicate_cka(represent(x), represent(y)), level)


def _hsic(x: Representation, y: Representation) -> Replicated:
    k, m = x.row_sums, y.row_sums
    c = _couplings(x, y)
    product = float(k @ m)
    without = product - k * m - x.times(m) - y.times(k) + c
    return Replicated(
        float(_from_sums(len(k), c.sum(), k.sum(), m.sum(), product)),
        np.asarray(_from_sums(len(k) - 1, c.sum() - 2 * c, k.sum() - 2 * k, m.sum() - 2 * m, without)),
    )


def _from_sums(n: int, t: Array, sum_k: Array, sum_m: Array, product: Array | float) -> Array:
    return (t + sum_k * sum_m / ((n - 1) * (n - 2)) - 2 * product / (n - 2)) / (n * (n - 3))


def _couplings(x: Representation, y: Representation) -> Array:
    """c_i = sum_j K_ij L_ij of the zero-diagonal Gram matrices, by whichever form is cheaper."""
    if len(x.features) < min(x.features.shape[1], y.features.shape[1]):
        left, right = x.features @ x.features.T, y.features @ y.features.T
    else:
        left, right = x.features @ (x.features.T @ y.features), y.features
    products: Array = np.einsum("ij,ij->i", left, right)
    return products - x.squared_norms * y.squared_norms
