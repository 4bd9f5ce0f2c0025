"""CKA estimated from batches alone, for when not even the feature-space sums of the whole set fit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.similarity.streaming_cka import CkaSums


def minibatch_cka(batches: Iterable[tuple[ArrayLike, ArrayLike]]) -> Replicated:
    """Ratio of sums over batches of unbiased HSIC, and its value without each batch in turn.

    It is noisier than the CKA of all images together and depends on how they fall into batches; its
    expectation does not depend on the batch size but for the ratio.

    Args:
        batches: Two or more pairs of features of the same images, shapes (b, d) and (b, e), b >= 4.

    Returns:
        The estimate, and `without` of shape (number of batches,): the jackknife is over batches.

    Raises:
        ValueError: If there are fewer than two batches, a batch has fewer than four images, the shapes do not
            fit, or a value is not finite.

    Source:
        Nguyen, Raghu & Kornblith 2021 (2010.15327), eqs. 2-3.
    """
    rows: list[tuple[float, float, float]] = []
    for x, y in batches:
        sums = CkaSums.of(x, y)
        if sums.xy.n < 4:
            raise ValueError(f"batch {len(rows)} has {sums.xy.n} images: unbiased HSIC needs four; drop it or join it")
        rows.append((sums.xy.hsic(), sums.xx.hsic(), sums.yy.hsic()))
    if len(rows) < 2:
        raise ValueError(f"minibatch CKA needs two batches or more, got {len(rows)}")
    parts = np.array(rows)
    left_out = parts.sum(0) - parts
    if left_out[:, 1:].min() <= 0:
        raise ValueError("a side has no variance, or all of it hangs on a single batch: CKA is not defined")
    cross, own_x, own_y = parts.sum(0)
    return Replicated(float(cross / np.sqrt(own_x * own_y)), left_out[:, 0] / np.sqrt(left_out[:, 1] * left_out[:, 2]))
