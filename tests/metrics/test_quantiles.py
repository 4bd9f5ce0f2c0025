import numpy as np
import pytest
from scipy import stats

from visprobe.metrics.intervals.quantiles import quantile, spearman
from visprobe.metrics.similarity.cka import replicate_cka, represent
from visprobe.metrics.similarity.cka_map import cka_map, unit_grams


def test_a_quantile_lies_between_the_order_statistics_of_the_binomial_law() -> None:
    ends = quantile(np.arange(100.0), 0.5, "ratio")
    assert ends is not None
    # The exact 95 % interval of the median of 100: the 40th and 61st value (David & Nagaraja, table 7.1).
    assert (ends.value, ends.low, ends.high) == (49.5, 39.0, 60.0)


@pytest.mark.parametrize("n", [6, 20, 72, 200, 1001])
@pytest.mark.parametrize("q", [0.05, 0.5, 0.95])
def test_each_tail_of_a_quantile_misses_at_most_half_and_no_narrower_pair_would_do(n: int, q: float) -> None:
    ends = quantile(np.arange(1.0, n + 1), q, "ratio")
    if ends is None:
        assert min(n * q, n * (1 - q)) < 4
        return
    low, high = int(ends.low), int(ends.high)
    below, above = (lambda r: stats.binom.cdf(r - 1, n, q)), (lambda s: stats.binom.sf(s - 1, n, q))
    assert below(low) <= 0.025 < below(low + 1)
    assert above(high) <= 0.025 < above(high - 1)


def test_too_few_values_have_no_interval() -> None:
    for few, q in ((5, 0.5), (71, 0.05)):
        assert quantile(np.arange(few), q, "ratio") is None and quantile(np.arange(few + 1.0), q, "ratio") is not None
    with pytest.raises(ValueError, match="finite"):
        quantile([1.0, np.nan], 0.5, "ratio")


def test_a_rank_correlation_is_that_of_scipy_and_its_interval_covers() -> None:
    rng, inside = np.random.default_rng(0), 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # of a normal pair of correlation 0.6
    for _ in range(600):
        x = rng.standard_normal(80)
        y = np.exp(0.6 * x + 0.8 * rng.standard_normal(80))
        ends = spearman(x, y)
        inside += ends.low <= truth <= ends.high
    assert ends.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)  # float64 rounding
    assert 0.925 <= inside / 600 <= 0.985  # 95 % and three standard errors of 600 draws
    rising = spearman([1, 2, 3, 4, 5], [1, 4, 9, 16, 25])
    assert (rising.value, rising.low, rising.high) == pytest.approx((1, 1, 1), abs=1e-12)  # float64 rounding
    with pytest.raises(ValueError, match="does not vary"):
        spearman([1, 1, 1, 1], [1, 2, 3, 4])


def test_the_map_holds_the_debiased_cka_of_every_pair() -> None:
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((40, d)) + 3 for d in (3, 60)]
    y = [x[0] @ rng.standard_normal((3, 9)), 1e6 * x[1] + rng.standard_normal((40, 60)), rng.standard_normal((40, 5))]
    found = cka_map(unit_grams(x), unit_grams(y))
    expected = [[replicate_cka(represent(a), represent(b)).value for b in y] for a in x]
    assert found == pytest.approx(np.array(expected), abs=1e-10)  # two orders of float64 sums
    with pytest.raises(ValueError, match="no variance"):
        unit_grams([np.ones((9, 2))])
    with pytest.raises(ValueError, match="single image"):
        unit_grams([np.eye(9)[:, :1]])
    with pytest.raises(ValueError, match="not the same images"):
        cka_map(unit_grams(x), unit_grams([x[0][:30]]))
