import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from visprobe.metrics.intervals.estimate import Estimate
from visprobe.metrics.intervals.proportions import mcnemar_exact, newcombe_paired, wilson, z_quantile


# Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3, printed to 4 digits.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_examples(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)  # half a unit of the last printed digit


@pytest.mark.parametrize(("successes", "n"), [(1, 7), (50, 100), (612, 1000), (999, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_ends_are_the_roots_of_the_score_equation(successes: int, n: int, level: float) -> None:
    share, z = successes / n, z_quantile(level)

    def score(p: float) -> float:
        return (share - p) ** 2 - z * z * p * (1 - p) / n

    expected = (brentq(score, 0, share, xtol=1e-15), brentq(score, share, 1, xtol=1e-15))
    assert wilson(successes, n, level) == pytest.approx(expected, abs=1e-12)  # root finder stops at 1e-15


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (250, 0.1), (1000, 0.9)])
def test_wilson_covers_the_true_share(n: int, p: float, level: float) -> None:
    counts = np.arange(n + 1)
    covered = [low <= p <= high for low, high in (wilson(int(k), n, level) for k in counts)]
    # Exact coverage, summed over all outcomes: discreteness moves it by about 1 / sqrt(n p (1 - p)) * 0.1.
    assert binom.pmf(counts, n, p)[covered].sum() == pytest.approx(level, abs=0.02)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_level_is_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        wilson(1, 2, level)


def ends_of(found: Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def test_newcombe_gives_the_published_example() -> None:
    # Airway hyper-responsiveness before and after transplantation (Bentur et al. 2009), as worked out by
    # Fagerland, Lydersen & Laake, Statistics in Medicine 33:2850 (2014): -0.507 to -0.026.
    result = newcombe_paired(both=1, only_a=1, only_b=7, neither=12)
    assert ends_of(result) == pytest.approx(
        (-6 / 21, -0.507, -0.026), abs=5e-4
    )  # half a unit of the last printed digit


def _restated_method_10(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    n, z = a + b + c + d, z_quantile(0.95)

    def ends(k: int) -> tuple[float, float]:
        root = z * math.sqrt(z * z + 4 * k * (1 - k / n))
        return (2 * k + z * z - root) / (2 * (n + z * z)), (2 * k + z * z + root) / (2 * (n + z * z))

    (l1, u1), (l2, u2) = ends(a + b), ends(a + c)
    p1, p2, bottom = (a + b) / n, (a + c) / n, (a + b) * (c + d) * (a + c) * (b + d)
    top = a * d - b * c
    top = max(top - n / 2, 0) if top > 0 else top
    phi = top / math.sqrt(bottom) if bottom else 0
    down = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    up = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return p1 - p2 - down, p1 - p2 + up


@pytest.mark.parametrize("counts", [(14, 5, 0, 22), (36, 12, 2, 0), (50, 3, 9, 38), (3, 20, 25, 2), (600, 21, 34, 345)])
def test_newcombe_equals_a_restatement_of_method_10(counts: tuple[int, int, int, int]) -> None:
    assert ends_of(newcombe_paired(*counts))[1:] == pytest.approx(
        _restated_method_10(*counts), abs=1e-12
    )  # float64 rounding


def test_newcombe_is_antisymmetric() -> None:
    forth, back = newcombe_paired(40, 9, 3, 48), newcombe_paired(40, 3, 9, 48)
    assert ends_of(forth) == pytest.approx((-back.value, -back.high, -back.low), abs=1e-12)  # float64 rounding


def test_newcombe_of_two_systems_right_on_the_same_units_straddles_zero() -> None:
    result = newcombe_paired(80, 0, 0, 20)
    assert result.value == 0
    assert result.low < 0 < result.high


def test_newcombe_covers_the_true_difference() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.55, 0.10, 0.06, 0.29])
    tables = rng.multinomial(300, shares, size=4000)
    covered = [low <= 0.04 <= high for _, low, high in (ends_of(newcombe_paired(*map(int, table))) for table in tables)]
    # 4000 draws: standard error 0.0034; the method itself is known to sit within a point of nominal.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("counts", [(-1, 1, 1, 1), (0, 0, 0, 0)])
def test_newcombe_refuses_impossible_counts(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError):
        newcombe_paired(*counts)


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 7), (0, 5), (12, 12), (21, 34), (600, 500)])
def test_mcnemar_equals_the_two_sided_binomial_test(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)  # two float64 tail sums


def test_mcnemar_published_example_and_empty_table() -> None:
    assert mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)  # Fagerland et al. 2014, printed to 4 digits
    assert mcnemar_exact(0, 0) == 1.0


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError):
        mcnemar_exact(-1, 2)
