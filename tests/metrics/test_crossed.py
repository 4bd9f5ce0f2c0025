"""Intervals over draws and images together: they cover what one of the two alone does not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.crossed import crossed_mean
from visprobe.metrics.intervals.estimate import FRACTION
from visprobe.metrics.intervals.proportions import wilson


def answers(rng: np.random.Generator, threshold: float, draw: float, unit: float) -> NDArray[np.bool_]:
    """Right where draw effect + image effect + noise of variance 1 in all is above a threshold; 5 draws, 150 images."""
    noise = np.sqrt(1 - draw**2 - unit**2)
    scores = (
        draw * rng.standard_normal((5, 1)) + unit * rng.standard_normal(150) + noise * rng.standard_normal((5, 150))
    )
    return scores > threshold


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("threshold", "draw", "unit"), [(0.0, 0.0, 0.8), (0.0, 0.2, 0.8), (0.5, 0.5, 0.5), (-2.0, 0.1, 0.7)]
)
def test_95_percent_intervals_cover_the_mean_over_other_draws_and_images(threshold, draw, unit) -> None:
    rng, truth, runs = np.random.default_rng(0), norm.sf(threshold), 1000
    found = [crossed_mean(answers(rng, threshold, draw, unit)) for _ in range(runs)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert covered >= 0.95 - 0.021  # three standard errors of 1000 runs
    assert covered <= 0.995 or threshold == -2.0  # not wide for nothing; near 0 and 1 it leans to the safe side


def test_of_images_alone_the_interval_would_be_too_narrow() -> None:
    rng, misses = np.random.default_rng(1), 0
    for _ in range(400):
        values = answers(rng, 0.0, 0.5, 0.5).mean(0)
        found = clustered_mean(values, np.arange(150))
        misses += not found.low <= 0.5 <= found.high
    assert misses > 100  # of 20 that a 95 % interval may miss


def test_differences_of_paired_answers_cover_no_difference() -> None:
    rng, missed = np.random.default_rng(2), 0
    for _ in range(600):
        unit, draw = rng.standard_normal(150), 0.3 * rng.standard_normal((5, 1))
        one, two = (unit + draw + 0.5 * rng.standard_normal((5, 150)) > 0 for _ in range(2))
        found = crossed_mean(one.astype(float) - two, scale=FRACTION.of_differences)
        missed += not found.low <= 0 <= found.high
    assert missed <= 0.05 * 600 + 16  # three standard errors


def test_one_source_of_variation_alone_gives_its_own_interval() -> None:
    same = np.tile(np.random.default_rng(0).random(400), (5, 1))
    crossed, alone = crossed_mean(same), clustered_mean(same[0], np.arange(400))
    assert (crossed.low, crossed.high) == pytest.approx((alone.low, alone.high), abs=1e-12)  # rounding


def test_all_right_is_as_wide_as_wilsons_interval() -> None:
    found = crossed_mean(np.ones((5, 400)))
    assert found.high == 1.0 and found.low == pytest.approx(
        wilson(400, 400)[0], abs=2e-4
    )  # z against t, n against n + z²


def test_a_single_draw_says_nothing_about_other_draws() -> None:
    with pytest.raises(ValueError, match="two draws"):
        crossed_mean(np.ones((1, 40)))
