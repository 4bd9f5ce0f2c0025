"""Means of units that come in clusters, such as several questions about one image."""

from __future__ import annotations

import math

import numpy as np

from visprobe.metrics.arrays import Array, Labels
from visprobe.metrics.intervals.estimate import FRACTION, Estimate, Scale
from visprobe.metrics.intervals.student import Student


def clustered_student(values: Array, clusters: Labels, units: str = "images") -> Student:
    """Compute a mean with a cluster-robust standard error.

    Args:
        values: float64 of shape (n,).
        clusters: Cluster of each unit, int64 of shape (n,); two clusters or more.
        units: Name of the clusters, for the method's text.

    Returns:
        The mean, with (clusters - 1) degrees of freedom; its n counts clusters.

    Raises:
        ValueError: If there are fewer than two clusters.

    Source: Miller (2024), "Adding Error Bars to Evals", arXiv 2411.00640, equation 4, with the usual factor
        C / (C - 1) for C clusters (Cameron and Miller 2015).
    """
    _, index = np.unique(clusters, return_inverse=True)
    count, n = int(index.max(initial=-1)) + 1, len(values)
    if count < 2:
        raise ValueError(f"an interval over clusters needs two clusters or more, got {count}")
    mean = float(np.mean(values))
    sums = np.bincount(index, weights=np.asarray(values, np.float64) - mean)
    error = math.sqrt(float(sums @ sums) * count / (count - 1)) / n
    return Student(mean, error, count - 1, count, f"t over {units}")


def clustered_mean(values: Array, clusters: Labels, scale: Scale = FRACTION, units: str = "images") -> Estimate:
    """Compute a mean with a cluster-robust 95 % interval; see `clustered_student`."""
    return clustered_student(values, clusters, units).estimate(scale)
