"""Standard errors, paired differences and Holm: textbook forms, planted truth, error rates."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from visprobe.metrics.intervals.estimate import CKA, Estimate
from visprobe.metrics.intervals.jackknife import replicate_by_groups, replicate_mean, variance_share
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.similarity.cka import debiased_cka, replicate_cka, represent

Array = NDArray[np.float64]


def test_the_jackknife_of_a_mean_has_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    mean = replicate_mean(values)
    assert mean.student.error == pytest.approx(values.std(ddof=1) / math.sqrt(50), rel=1e-10)
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
    assert int(np.abs(found.value - found.without).argmax()) == 17
    assert found.without[17] < found.value
    assert variance_share(found)[17] > 50 / 200  # fifty times the share of an image like all others


def test_groups_of_one_are_the_delete_one_jackknife() -> None:
    values = np.random.default_rng(0).standard_normal(30)
    by_group = replicate_by_groups(lambda ids: float(values[ids].mean()), 30, groups=30)
    np.testing.assert_allclose(np.sort(by_group.without), np.sort(replicate_mean(values).without), atol=1e-15)
    with pytest.raises(ValueError, match="31 groups"):
        replicate_by_groups(len, 30, groups=31)


def cka_difference(base: Array, a: Array, b: Array) -> Estimate:
    origin = represent(base)
    first, second = (replicate_cka(origin, represent(features)) for features in (a, b))
    return (first - second).estimate(CKA.of_differences)


@pytest.mark.thorough
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


def test_holm_worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.9, 0.8]).tolist() == [1, 1]
    assert holm(0.2).tolist() == [0.2]
    for bad in ([1.2], [math.nan], [[0.1]]):
        with pytest.raises(ValueError, match="p-values"):
            holm(bad)
