"""Inference over runs against closed forms, an independent implementation and a null."""

import numpy as np
import pytest
from scipy import stats

from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.runs import mean_over_runs, sign_flip_p


def test_the_interval_is_that_of_a_one_sample_t_test():
    values = [1.0, 1.5, 2.4, 0.7]
    found, test = mean_over_runs(values), stats.ttest_1samp(values, 0)
    interval, reference = found.estimate(Scale("points")), test.confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert (interval.value, found.p_zero()) == pytest.approx((np.mean(values), test.pvalue), abs=1e-12)
    assert interval.n == 4
    one_sided = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert found.p_positive() == pytest.approx(one_sided, abs=1e-12)


def test_the_sign_flip_test_is_scipys_permutation_test():
    values = [0.3, -0.1, 0.5, 0.2, 0.05]
    reference = stats.permutation_test((values,), np.mean, permutation_type="samples", alternative="two-sided")
    assert sign_flip_p(values) == pytest.approx(reference.pvalue, abs=1e-12)


def test_its_smallest_value_is_two_in_two_to_the_n():
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_p([0.0, 0.0]) == 1


def test_the_interval_covers_at_its_level_and_the_test_keeps_it():
    draws = np.random.default_rng(0).normal(0, 1, (2000, 3))
    covered = np.mean([(m := mean_over_runs(row).estimate(Scale("points"))).low <= 0 <= m.high for row in draws])
    assert 0.935 <= covered <= 0.965  # 3 standard errors of a share of 0.95 in 2,000 draws
    assert np.mean([sign_flip_p(row) <= 0.25 for row in draws[:500]]) == pytest.approx(0.25, abs=0.06)


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="two runs or more"):
        mean_over_runs([1.0])
    with pytest.raises(ValueError, match="1 to 20"):
        sign_flip_p([])
