from dataclasses import replace

import numpy as np
import pytest
from baseline_marks import mark
from planted_features import feature_set

from visprobe.analyses.drift.heads import head_drift
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.similarity.cka import debiased_cka
from visprobe.results.result import Result

N, HEADS, WIDTH, BLOCKS = 100, 8, 4, 4
ROUNDING = 3e-3


def planted(name: str, seed: int, noise: float = ROUNDING, moved: tuple[tuple[int, int], ...] = ()) -> FeatureSet:
    """Heads of one base with noise of log-normal size per head; `moved` (block, head) get a hundred times as much."""
    shared, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    sites = {}
    for block in range(BLOCKS):
        size = noise * np.exp(0.3 * np.random.default_rng(block).standard_normal(HEADS))
        for at, head in moved:
            size[head] *= 100 if at == block else 1
        clean = shared.standard_normal((N, HEADS, WIDTH))
        noisy = clean + size[:, None] * own.standard_normal(clean.shape)
        sites[f"heads_{block + 1:02d}"] = noisy.reshape(N, -1)
    return feature_set(name, sites)


BASE = planted("base", 0, noise=0)
ROUNDED = planted("base (bfloat16)", 1)


def drift(*others: FeatureSet) -> Result:
    return head_drift(BASE, others, [ROUNDED], HEADS)


@pytest.mark.thorough
def test_the_planted_heads_and_no_others_are_found_in_20_of_20_seeds() -> None:
    for seed in range(2, 22):
        at = ((seed % BLOCKS, seed % HEADS), ((seed + 1) % BLOCKS, (3 * seed) % HEADS))
        settings = drift(planted("sft", seed, moved=at)).settings
        found = {tuple(place) for place in np.argwhere(settings["moved"]["sft"])}
        assert found == set(at)
        for block, head in at:
            assert settings["least_similar_head"]["sft"][f"heads_{block + 1:02d}"] == head


@pytest.mark.thorough
def test_noise_of_the_size_of_rounding_moves_no_head() -> None:
    alarms = [drift(planted("same", seed)).select(measure="heads_moved")[0].estimate.value for seed in range(100, 200)]
    assert np.count_nonzero(alarms) <= 6  # family-wise 5 % allows 5 of 100


@pytest.mark.thorough
def test_two_runs_of_one_recipe_differ_in_few_medians() -> None:
    misses = 0
    for seed in range(300, 340):
        result = drift(planted("a", seed, 0.3), planted("b", seed + 1000, 0.3))
        misses += sum(row.estimate.low > 0 or row.estimate.high < 0 for row in result.select(role="difference"))
    assert misses <= 16  # 160 intervals of 95 %: 8 expected, three standard errors above


def test_rows_are_the_cka_of_single_heads() -> None:
    other = planted("sft", 5, 0.3)
    result = drift(other)
    split = [np.split(f.sites["heads_02"].astype(float), HEADS, axis=1) for f in (BASE, other)]
    expected = [debiased_cka(x, y).value for x, y in zip(*split, strict=True)]
    assert result.settings["maps"]["sft"][1] == pytest.approx(expected, abs=1e-9)  # kept to nine digits
    least = result.select(checkpoint="sft", site="heads_02", measure="least_head_cka")[0].estimate
    median = result.select(checkpoint="sft", site="heads_02", measure="median_head_cka")[0].estimate
    assert least.value == pytest.approx(min(expected), abs=1e-12)  # float64 rounding
    assert median.value == pytest.approx(np.median(expected), abs=1e-12)
    single = debiased_cka(*(side[int(np.argmin(expected))] for side in split))
    assert least.low < single.low and least.high > single.high  # it holds for all heads together


def test_without_the_rounded_base_nothing_is_said_to_have_moved() -> None:
    result = head_drift(BASE, [planted("sft", 5, 0.3)], [], HEADS)
    assert not result.select(measure="heads_moved") and "cannot be said" in result.warnings[0]


def test_equal_features_have_not_moved_even_where_rounding_changes_nothing() -> None:
    exact = replace(BASE, encoder="base (bfloat16)", baseline=mark("base (bfloat16)"))
    result = head_drift(BASE, [replace(BASE, encoder="copy"), planted("sft", 5, 0.01)], [exact], HEADS)
    shares = [row.estimate.value for row in result.select(measure="heads_moved")]
    assert shares == [0, 1]


def test_the_baseline_that_is_further_from_the_base_counts() -> None:
    """In bfloat16, rounding weights changes nothing; running the base in float32 does."""
    exact, arithmetic = (
        replace(BASE, encoder="base (bfloat16)", baseline=mark("base (bfloat16)")),
        replace(ROUNDED, encoder="base (float32)", baseline=mark("base (float32)")),
    )
    result = head_drift(BASE, [planted("same", 100)], [exact, arithmetic], HEADS)
    assert result.select(measure="heads_moved")[0].estimate.value == 0


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(DataError, match=r"base at heads_01.*not those of 5 heads"):
        head_drift(BASE, [ROUNDED], [], 5)
