"""Inference over training runs: the run, not the image, is the unit of a comparison of recipes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from visprobe.metrics.intervals.student import Student


def mean_over_runs(values: Sequence[float]) -> Student:
    """Compute the mean over runs with its standard error.

    Args:
        values: One number per run, two or more, in the unit of interest; for a comparison of two arms, the
            differences between runs of the same seed.

    Raises:
        ValueError: If there are fewer than two runs.

    Source: Student (1908); the interval assumes that runs are independent and roughly normal.
    """
    if len(values) < 2:
        raise ValueError(f"an interval over runs needs two runs or more, got {len(values)}")
    n, value = len(values), float(np.mean(values))
    return Student(value, float(np.std(values, ddof=1)) / math.sqrt(n), n - 1, n, f"t over {n} runs")


def sign_flip_p(differences: Sequence[float]) -> float:
    """Compute the two-sided exact permutation p-value of paired differences over all 2^n sign flips.

    Args:
        differences: One difference per pair of runs, at most 20.

    Returns:
        Share of sign flips whose mean is at least as far from zero; its smallest possible value is 2 / 2^n.

    Source: Fisher (1935), randomization test for paired data.
    """
    if not 1 <= len(differences) <= 20:
        raise ValueError(f"exact sign flips need 1 to 20 pairs, got {len(differences)}")
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed * (1 - 1e-12) for total in sums) / len(sums)
