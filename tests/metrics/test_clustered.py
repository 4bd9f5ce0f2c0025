"""Clustered intervals against a plain restatement, the unclustered case, and coverage."""

import numpy as np
import pytest

from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import Scale


def test_the_formula():
    values, clusters = np.array([1.0, 1, 0, 1, 0, 0]), np.array([7, 7, 7, 9, 9, 4])
    found = clustered_mean(values, clusters, Scale("points", -9, 9), units="classes")
    sums = [0.5 + 0.5 - 0.5, 0.5 - 0.5, -0.5]  # residuals from 0.5, added up per cluster
    error = np.sqrt(sum(s * s for s in sums) * 3 / 2) / 6
    assert found.value == 0.5
    assert (found.n, found.unit, found.method) == (3, "points", "t over classes 95 %")  # n counts clusters
    assert found.high - found.value == pytest.approx(4.302652729911275 * error)  # t quantile, 2 degrees of freedom


def test_clusters_of_one_give_the_ordinary_interval():
    values = np.random.default_rng(0).integers(0, 2, 200).astype(float)
    found = clustered_mean(values, np.arange(200))
    error = values.std(ddof=1) / np.sqrt(200)
    assert found.high - found.value == pytest.approx(1.971956544249395 * error)  # t quantile, 199 degrees of freedom


def test_copies_of_a_unit_add_no_certainty():
    values, clusters = np.array([1.0, 0, 1, 1, 0]), np.arange(5)
    once = clustered_mean(values, clusters)
    tenfold = clustered_mean(np.repeat(values, 10), np.repeat(clusters, 10))
    assert (tenfold.value, tenfold.low, tenfold.high) == pytest.approx((once.value, once.low, once.high))


def test_it_covers_where_units_go_together_and_wilson_would_not():
    generator, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        share = generator.beta(8, 2, 100)  # each image has its own difficulty
        values = (generator.random((100, 8)) < share[:, None]).astype(float).ravel()
        found = clustered_mean(values, np.repeat(np.arange(100), 8))
        hits += found.low <= 0.8 <= found.high
    assert 0.92 <= hits / 1000 <= 0.97  # 0.95 within three standard errors, a little less for skew at 100 clusters


def test_one_cluster_has_no_interval():
    with pytest.raises(ValueError, match="two clusters"):
        clustered_mean(np.ones(3), np.zeros(3, np.int64))
