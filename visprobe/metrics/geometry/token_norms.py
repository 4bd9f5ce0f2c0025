"""Tail of patch-token norms: the outlier tokens in which some encoders store global information."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from visprobe.metrics.intervals.jackknife import Replicated, replicate_mean
from visprobe.metrics.matrices import finite


def tail_threshold(norms: ArrayLike, deviations: float = 10.0) -> float:
    """Compute the norm above which a token is an outlier: median + deviations * MAD over all tokens.

    Take it from the base and apply it to all its descendants, or a shift of all norms would go unseen.

    Args:
        norms: Any real dtype, shape (images, tokens): L2 norm of each patch token.
        deviations: In units of the median absolute deviation, unscaled (a normal law has 0.67 of these in a
            standard deviation).

    Returns:
        The threshold, in the unit of the norms.

    Raises:
        ValueError: If the shape does not fit, or a norm is not finite or negative.

    Source:
        Tokens of high norm: Darcet et al. 2024 (2309.16588), section 2.1, who cut at a fixed norm; the median and MAD
        cut of Leys et al. 2013 needs no fixed norm.
    """
    array = finite(norms, 1, "the tail of token norms")
    if array.min() < 0:
        raise ValueError(f"a token norm is negative: {array.min()}")
    median = float(np.median(array))
    return median + deviations * float(np.median(np.abs(array - median)))


def tail_share(norms: ArrayLike, threshold: float) -> Replicated:
    """Compute the mean share of an image's tokens above a threshold, also without each image.

    Args:
        norms: Any real dtype, shape (images, tokens), two images or more.
        threshold: Norm above which a token is an outlier, from `tail_threshold`.

    Returns:
        Values in [0, 1]; the interval is over images, whose tokens go together.

    Raises:
        ValueError: If the shape does not fit or a norm is not finite.
    """
    return replicate_mean((finite(norms, 2, "the tail of token norms") > threshold).mean(1))
