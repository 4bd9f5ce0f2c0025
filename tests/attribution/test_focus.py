"""Measures of focus: closed forms of uniform and one-hot maps, independent definitions, and what has no answer."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from visprobe.attribution.evidence.focus import (
    MEASURES,
    border_mass,
    border_share,
    entropy,
    gini,
    mass_inside,
    pointing,
    rank_correlation,
)
from visprobe.errors import DataError

LEFT = np.array([[1.0, 0.5, 0.0, 0.0]] * 3)  # one column and a half
EPS = 1e-12  # sums of a dozen float64 numbers of order one


def one_hot(grid, row, column):
    values = np.zeros(grid)
    values[row, column] = 3
    return values


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "pointing"])
def test_a_uniform_map_has_the_uniform_value(name):
    function, needs_region, _, uniform = MEASURES[name]
    args = (LEFT,) if needs_region else ()
    assert function(torch.full((3, 4), 0.3), *args) == pytest.approx(uniform((3, 4), LEFT), abs=EPS)


@pytest.mark.parametrize("grid", [(3, 4), (2, 5), (1, 7), (24, 24)])
def test_one_patch_with_all_mass(grid):
    values, n = one_hot(grid, 0, 0), grid[0] * grid[1]
    assert entropy(values) == 0
    assert gini(values) == pytest.approx(1 - 1 / n, abs=EPS)
    assert border_mass(values) == 1
    assert entropy(np.ones(grid)) == pytest.approx(1, abs=EPS)


def test_the_border_of_a_uniform_map_is_a_fraction_of_patches():
    assert border_share((3, 4)) == pytest.approx(10 / 12, abs=EPS)
    assert border_share((24, 24)) == pytest.approx(92 / 576, abs=EPS)
    assert border_share((2, 9)) == border_share((1, 1)) == border_mass(np.ones((2, 9))) == 1
    assert border_mass(one_hot((3, 4), 1, 2)) == 0


def test_measures_agree_with_their_textbook_definitions():
    values = np.random.default_rng(0).normal(size=(5, 7)).round(1)  # ties and zeros
    positive = np.maximum(values, 0).ravel()
    pairs = np.abs(positive[:, None] - positive[None])
    assert gini(values) == pytest.approx(pairs.sum() / (2 * positive.size**2 * positive.mean()), abs=EPS)
    p = positive[positive > 0] / positive.sum()
    assert entropy(values) == pytest.approx(float(-(p * np.log(p)).sum() / np.log(35)), abs=EPS)
    other = np.random.default_rng(1).normal(size=(5, 7)).round(0)
    assert rank_correlation(values, other) == pytest.approx(spearmanr(values.ravel(), other.ravel()).statistic, abs=EPS)
    assert rank_correlation(values, -values) == pytest.approx(-1, abs=EPS)


def test_scale_does_not_matter_and_negative_values_have_no_mass():
    values = np.random.default_rng(2).normal(size=(4, 4))
    for scaled in (values * 1e-30, values * 1e30, np.where(values < 0, values * 9, values)):
        for function in (entropy, gini, border_mass):
            assert function(scaled) == pytest.approx(function(values), abs=EPS)


def test_mass_inside_counts_patches_filled_in_part_in_part():
    assert mass_inside(np.arange(12.0).reshape(3, 4), LEFT) == pytest.approx((0 + 4 + 8 + (1 + 5 + 9) / 2) / 66)
    assert MEASURES["mass_inside"].uniform((3, 4), LEFT) == 4.5 / 12


def test_pointing_and_its_ties():
    assert pointing(one_hot((3, 4), 2, 0), LEFT) is True
    assert pointing(one_hot((3, 4), 2, 1), LEFT) is True  # half as full as the fullest
    assert pointing(one_hot((3, 4), 2, 2), LEFT) is False
    assert pointing(one_hot((3, 4), 2, 1), LEFT**2) is False  # a quarter
    assert pointing(one_hot((3, 4), 2, 1), LEFT**2 * [0, 0.2, 0, 0]) is True  # nothing is fuller
    assert pointing(one_hot((3, 4), 0, 0) + one_hot((3, 4), 1, 1), LEFT) is True
    assert pointing(one_hot((3, 4), 0, 0) + one_hot((3, 4), 1, 3), LEFT) is False  # one of two lies outside
    assert pointing(np.ones((3, 4)), LEFT) is False
    assert MEASURES["pointing"].uniform((3, 4), LEFT) == 0.5


def test_what_has_no_answer_is_none():
    for empty in (np.zeros((3, 4)), -np.ones((3, 4))):
        for function, needs_region, _, _ in MEASURES.values():
            assert function(empty, *((LEFT,) if needs_region else ())) is None
    assert entropy([[1.0]]) is None
    assert rank_correlation(np.ones((3, 4)), LEFT) is None


def test_maps_that_are_none_are_refused():
    with pytest.raises(DataError, match="not finite"):
        entropy([[np.nan, 1]])
    with pytest.raises(DataError, match=r"shape \(4,\)"):
        gini(np.ones(4))
    for function in (mass_inside, pointing, rank_correlation):
        with pytest.raises(DataError, match=r"\(4, 4\).*\(3, 4\)"):
            function(np.ones((4, 4)), LEFT)
