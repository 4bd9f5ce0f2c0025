"""Influence, paired differences, max-T and Holm: textbook forms, planted truth, error rates."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from visprobe.metrics.intervals.jackknife import (
    influence,
    jackknife,
    replicate_by_groups,
    replicate_mean,
    variance_share,
)
from visprobe.metrics.intervals.multiplicity import holm, max_t, permutation_null
from visprobe.metrics.similarity.cka import cka_difference, debiased_cka, replicate_cka, represent

Array = NDArray[np.float64]


def test_influence_of_a_mean_is_the_deviation_from_it() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    mean = replicate_mean(values)
    np.testing.assert_allclose(influence(mean), values - values.mean(), atol=1e-12)
    interval = jackknife(mean, limit=math.inf)
    assert interval.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(50), rel=1e-10)
    assert variance_share(mean).sum() == pytest.approx(1)
    assert not variance_share(replicate_mean(np.ones(9))).any()
    for bad in (np.ones(1), np.ones((3, 3)), [1.0, math.nan]):
        with pytest.raises(ValueError, match="two finite numbers"):
            replicate_mean(bad)


def test_a_planted_outlier_moves_cka_most() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 16)), rng.standard_normal((200, 16))
    x[17] += 15
    y[17] += 15
    found = replicate_cka(represent(x), represent(y))
    assert int(np.abs(influence(found)).argmax()) == 17
    assert influence(found)[17] > 0
    assert variance_share(found)[17] > 50 / 200  # fifty times the share of an image like all others


def test_groups_of_one_are_the_delete_one_jackknife() -> None:
    values = np.random.default_rng(0).standard_normal(30)
    by_group = replicate_by_groups(lambda ids: float(values[ids].mean()), 30, groups=30)
    np.testing.assert_allclose(np.sort(by_group.without), np.sort(replicate_mean(values).without), atol=1e-15)
    with pytest.raises(ValueError, match="31 groups"):
        replicate_by_groups(len, 30, groups=31)


def test_cka_difference_is_the_paired_one_and_covers() -> None:
    rng, scale = np.random.default_rng(3), np.arange(1, 17) ** -0.5

    def drawn(n: int) -> tuple[Array, Array, Array]:
        base = rng.standard_normal((n, 16)) * scale
        return base, *(base + noise * rng.standard_normal((n, 16)) * scale[::-1] for noise in (0.3, 0.5))

    def population(noise: float) -> float:
        """CKA of z * scale and of that plus noise of the reversed spectrum, both diagonal covariances."""
        own = scale**2 + noise**2 * scale[::-1] ** 2
        return float((scale**4).sum() / math.sqrt((scale**4).sum() * (own**2).sum()))

    truth, hits = population(0.3) - population(0.5), 0
    for _ in range(1500):
        found = cka_difference(*drawn(150))
        hits += found.low <= truth <= found.high
    assert hits / 1500 == pytest.approx(0.95, abs=3 * 0.0056)  # 1,500 draws: standard error 0.56 points
    base, a, b = drawn(150)
    assert cka_difference(base, a, b).value == pytest.approx(
        debiased_cka(base, a).value - debiased_cka(base, b).value, abs=1e-12
    )


def step_down(observed: Array, null: Array) -> list[float]:
    """Westfall & Young's algorithm in its words: successive maxima over what is left, one hypothesis at a time."""
    p, left, largest = {}, list(np.argsort(-observed)), 0.0
    while left:
        count = sum(max(draw[left]) >= observed[left[0]] for draw in null)
        largest = max(largest, (1 + count) / (1 + len(null)))
        p[left.pop(0)] = largest
    return [p[i] for i in range(len(observed))]


def test_max_t_is_the_textbook_algorithm_on_standardised_values() -> None:
    rng = np.random.default_rng(0)
    null = rng.standard_normal((99, 6)) * [1, 1, 5, 1, 0.1, 1] + [0, 3, 0, 0, 0, 0]
    observed = np.array([4.0, 3.5, 4.0, 1.0, 0.35, 2.2])
    every = np.vstack([observed, null])
    scores = (every - every.mean(0)) / every.std(0)
    found = max_t(observed, null)
    assert found.p.tolist() == step_down(scores[0], scores[1:])
    assert found.p[0] == 1 / 100
    moved = max_t(1e6 * observed + 5, 1e6 * null + 5)
    assert moved.p.tolist() == found.p.tolist()
    np.testing.assert_allclose(moved.threshold, 1e6 * found.threshold + 5, rtol=1e-9)


def test_max_t_keeps_its_error_rate_and_beats_holm_on_correlated_sites() -> None:
    rng, false, found, by_holm = np.random.default_rng(1), 0, 0, 0
    for _ in range(1000):
        # Twelve layers that nearly repeat each other: one shared value and a little of their own.
        values = rng.standard_normal((100, 1)) + 0.3 * rng.standard_normal((100, 12))
        false += max_t(values[0], values[1:]).p.min() <= 0.05
        shifted = values[0] + 2.3
        found += max_t(shifted, values[1:]).p.min() <= 0.05
        by_holm += holm((1 + (values[1:] >= shifted).sum(0)) / 100).min() <= 0.05
    assert false / 1000 <= 0.05 + 3 * 0.0069  # standard error of a share of 0.05 in 1,000
    assert found > by_holm + 100


def test_permutation_null_of_cka_tells_related_sites_from_unrelated() -> None:
    rng = np.random.default_rng(2)
    base = rng.standard_normal((60, 8))
    sites = [represent(base + 0.5 * rng.standard_normal((60, 8))), represent(rng.standard_normal((60, 8)))]

    def statistic(order: NDArray[np.intp]) -> list[float]:
        turned = represent(base[order])
        return [replicate_cka(turned, site).value for site in sites]

    null = permutation_null(statistic, 60, draws=99)
    tested = max_t(statistic(np.arange(60)), null)
    assert tested.p[0] == 0.01 and tested.p[1] > 0.05
    assert (np.array(statistic(np.arange(60))) > tested.threshold).tolist() == [True, False]
    with pytest.raises(ValueError, match="3 observed values against a null of 2"):
        max_t(np.ones(3), null)
    with pytest.raises(ValueError, match="NaN"):
        max_t([np.nan, 1], null)


def test_holm_worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm(0.2).tolist() == [0.2]
    for bad in ([1.2], [math.nan], [[0.1]]):
        with pytest.raises(ValueError, match="p-values"):
            holm(bad)
