"""Debiased linear CKA from sums over batches: features are never all in memory, and parts of a set can be joined.

With u and v the features centred over all images seen, HSIC needs six sums: C = sum u v^T, P = sum |u|^2,
Q = sum |v|^2, R = sum |u|^2 |v|^2, G = sum |u|^2 v, H = sum |v|^2 u. The zero-diagonal Gram matrices then have

    row sums k_i = -|u_i|^2, m_i = -|v_i|^2    T = |C|^2 - R    S_K = -P    S_L = -Q    k.m = R.

The sums are kept about the mean of what was seen so far and moved when it moves, so a common offset does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import finite, same_images
from visprobe.metrics.similarity.cka import hsic_from_sums

_NO_VARIANCE = 1e-12  # rounding error of HSIC over the square of the mean squared norm, as in cka.py

Batches = Iterable[tuple[ArrayLike, ArrayLike]]


@dataclass(frozen=True)
class HsicSums:
    """Sums over images, about their means, from which the HSIC of two representations follows.

    Attributes:
        n: Number of images seen.
        mean_u: Mean of the first features, shape (d,).
        mean_v: Mean of the second, shape (e,).
        c: sum u v^T, shape (d, e).
        p, q, r: sum |u|^2, sum |v|^2 and sum |u|^2 |v|^2.
        g: sum |u|^2 v, shape (e,).
        h: sum |v|^2 u, shape (d,).
    """

    n: int
    mean_u: Array
    mean_v: Array
    c: Array
    p: float
    q: float
    r: float
    g: Array
    h: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> HsicSums:
        """Return the sums of one batch: float64 of shapes (b, d) and (b, e), b >= 1."""
        u, v = x - x.mean(0), y - y.mean(0)
        p, q = np.einsum("ij,ij->i", u, u), np.einsum("ij,ij->i", v, v)
        powers = float(p.sum()), float(q.sum()), float(p @ q)
        return cls(len(x), x.mean(0), y.mean(0), u.T @ v, *powers, p @ v, q @ u)

    def about(self, mean_u: Array, mean_v: Array) -> HsicSums:
        """Return the same sums about other points."""
        # Every sum of u - a and v - b expands into the old ones; sum u = sum v = 0, as both are about their means.
        n, a, b = self.n, mean_u - self.mean_u, mean_v - self.mean_v
        aa, bb, ca, cb = float(a @ a), float(b @ b), a @ self.c, self.c @ b
        r = self.r - 2 * b @ self.g - 2 * a @ self.h + bb * self.p + aa * self.q + 4 * a @ cb + n * aa * bb
        g, h = self.g - b * self.p - 2 * ca - n * aa * b, self.h - a * self.q - 2 * cb - n * bb * a
        c = self.c + n * np.outer(a, b)
        return HsicSums(n, mean_u, mean_v, c, self.p + n * aa, self.q + n * bb, float(r), g, h)

    def merged(self, other: HsicSums) -> HsicSums:
        """Return the sums over the images of both."""
        n = self.n + other.n
        mean_u = self.mean_u + (other.mean_u - self.mean_u) * (other.n / n)
        mean_v = self.mean_v + (other.mean_v - self.mean_v) * (other.n / n)
        a, b = self.about(mean_u, mean_v), other.about(mean_u, mean_v)
        return HsicSums(n, mean_u, mean_v, a.c + b.c, a.p + b.p, a.q + b.q, a.r + b.r, a.g + b.g, a.h + b.h)

    def hsic(self) -> float:
        """Compute the unbiased HSIC of all images seen, n >= 4."""
        t = float(np.vdot(self.c, self.c)) - self.r
        return float(hsic_from_sums(self.n, t, -self.p, -self.q, self.r))

    def hsic_without(self, x: Array, y: Array) -> Array:
        """Compute the unbiased HSIC without one image, for each row of a batch of images seen, shape (b,)."""
        u, v = x - self.mean_u, y - self.mean_v
        p, q = np.einsum("ij,ij->i", u, u), np.einsum("ij,ij->i", v, v)
        c = np.einsum("ij,ij->i", u @ self.c, v) - p * q
        total = np.vdot(self.c, self.c) - self.r - 2 * c
        # (K m)_i = p_i q_i - u_i.H and (L k)_i = p_i q_i - v_i.G.
        product = self.r - p * q - (p * q - u @ self.h) - (p * q - v @ self.g) + c
        return hsic_from_sums(self.n - 1, total, 2 * p - self.p, 2 * q - self.q, product)


@dataclass(frozen=True)
class CkaSums:
    """Sums from which the CKA of the images seen so far follows; joined with `merged`, in any order.

    Attributes:
        xx: Sums of the first features with themselves.
        xy: Sums of the first with the second.
        yy: Sums of the second with themselves.
    """

    xx: HsicSums
    xy: HsicSums
    yy: HsicSums

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike) -> CkaSums:
        """Return the sums of one batch.

        Args:
            x: Any real dtype, shape (b, d), one row per image, b >= 1.
            y: Shape (b, e), the same images in the same order.

        Raises:
            ValueError: If the shapes do not fit or a value is not finite.
        """
        left, right = _batch(x, y)
        return cls(HsicSums.of(left, left), HsicSums.of(left, right), HsicSums.of(right, right))

    def merged(self, other: CkaSums) -> CkaSums:
        """Return the sums over the images of both, which must be different images.

        Raises:
            ValueError: If the widths differ.
        """
        if self.xy.c.shape != other.xy.c.shape:
            raise ValueError(f"sums of widths {self.xy.c.shape} and {other.xy.c.shape} cannot be joined")
        return CkaSums(self.xx.merged(other.xx), self.xy.merged(other.xy), self.yy.merged(other.yy))

    def cka(self) -> float:
        """Compute the debiased linear CKA of all images seen, in [-1, 1].

        Raises:
            ValueError: If there are fewer than four images or a side has no variance.

        Source:
            That of `visprobe.metrics.similarity.cka.replicate_cka`, in feature space: Kornblith et al. 2019, section 3.
        """
        if self.xy.n < 4:
            raise ValueError(f"debiased CKA needs n >= 4 images, got {self.xy.n}")
        own_x, own_y = self.xx.hsic(), self.yy.hsic()
        _has_variance(self.xx, np.array([own_x]))
        _has_variance(self.yy, np.array([own_y]))
        return self.xy.hsic() / math.sqrt(own_x * own_y)

    def cka_without(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Compute the CKA without one image, for each row of a batch of images seen, float64 of shape (b,).

        Raises:
            ValueError: If there are fewer than five images or a side has no variance without one of them.
        """
        left, right = _batch(x, y)
        if self.xy.n < 5:
            raise ValueError(f"leaving one image out of debiased CKA needs n >= 5 images, got {self.xy.n}")
        own_x, own_y = self.xx.hsic_without(left, left), self.yy.hsic_without(right, right)
        _has_variance(self.xx, own_x)
        _has_variance(self.yy, own_y)
        return self.xy.hsic_without(left, right) / np.sqrt(own_x * own_y)


def cka_sums(batches: Batches) -> CkaSums:
    """Add up the sums of all batches.

    Args:
        batches: Pairs of features of the same images, shapes (b, d) and (b, e); b may differ from batch to batch.

    Raises:
        ValueError: If there is no batch, shapes or widths do not fit, or a value is not finite.
    """
    total = None
    for x, y in batches:
        total = CkaSums.of(x, y) if total is None else total.merged(CkaSums.of(x, y))
    if total is None:
        raise ValueError("there is no batch to compare")
    return total


def replicate_streaming(sums: CkaSums, batches: Batches) -> Replicated:
    """Compute the debiased CKA, also without each image, from a second pass over the batches of the sums.

    Raises:
        ValueError: If the second pass gives another number of images, or fewer than five, or a side has no variance.
    """
    without = np.concatenate([np.empty(0), *(sums.cka_without(x, y) for x, y in batches)])
    if len(without) != sums.xy.n:
        raise ValueError(f"the sums are of {sums.xy.n} images, the second pass gave {len(without)}")
    return Replicated(sums.cka(), without)


def _batch(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    left, right = finite(x, 1, "a batch"), finite(y, 1, "a batch")
    same_images(left, right)
    return left, right


def _has_variance(sums: HsicSums, own: Array) -> None:
    if not (own > _NO_VARIANCE * (sums.p / sums.n) ** 2).all():
        raise ValueError("a side has no variance, or all of it hangs on a single image: CKA is not defined")
