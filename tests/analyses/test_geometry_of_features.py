"""Geometry: planted collapse, spread, outlying tokens; the metrics' own numbers; bad input."""

from dataclasses import replace

import numpy as np
import pytest
from planted_similarity import planted_features, without_norms

from visprobe.analyses.similarity.geometry import geometry
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.geometry.effective_rank import effective_rank, participation_ratio, rankme
from visprobe.metrics.geometry.intrinsic_dimension import two_nn
from visprobe.metrics.geometry.uniformity import uniformity
from visprobe.results.result import Estimate, Result

BASE = planted_features("base", 0.0, n=300, d=6)
SFT = planted_features("sft", 0.1, n=300, d=6)


def number(result: Result, name: str, measure: str, site: str = "block_02", reference: str | None = None) -> Estimate:
    (row,) = result.select(checkpoint=name, measure=measure, site=site, reference=reference)
    return row.estimate


def changed(features: FeatureSet, name: str, site: str, array: np.ndarray) -> FeatureSet:
    return replace(features, encoder=name, sites={**features.sites, site: array.astype(np.float32)})


def test_rows_are_the_numbers_of_the_metrics() -> None:
    result = geometry(BASE, [SFT], [planted_features("untrained", 3.0, n=300, d=6)])
    x = SFT.sites["projected"]
    expected = {
        "effective_rank": effective_rank(x),
        "rankme": rankme(x),
        "participation_ratio": participation_ratio(x).value,
        "two_nn": two_nn(x).value,
        "uniformity": uniformity(x).value,
    }
    for measure, value in expected.items():
        assert number(result, "sft", measure, "projected").value == pytest.approx(value, rel=1e-12)
    assert {row.site for row in result.rows} == {"block_02", "projected"}
    assert {row.site for row in result.select(measure="high_norm")} == {"block_02"}
    assert {row.checkpoint for row in result.rows if row.role == "baseline"} == {"untrained"}
    assert not result.warnings


def test_a_planted_collapse_lowers_every_rank_and_spreads_less() -> None:
    x = BASE.sites["block_02"].astype(np.float64)
    flat = x.mean(0) + (x - x.mean(0)) * [1, 1, 0.05, 0.05, 0.05, 0.05]
    result = geometry(BASE, [changed(BASE, "flat", "block_02", flat)])
    for measure in ("effective_rank", "rankme", "participation_ratio", "two_nn"):
        assert number(result, "flat", measure, reference="base").high < 0
    assert number(result, "flat", "uniformity", reference="base").low > 0
    # Every other site is the base's own, so the tower is not called identical and all differences there are 0.
    assert number(result, "flat", "two_nn", "projected", "base").value == 0


def test_a_difference_is_paired() -> None:
    result = geometry(BASE, [SFT])
    for measure in ("effective_rank", "rankme", "participation_ratio", "uniformity"):
        own, other = (number(result, name, measure) for name in ("sft", "base"))
        pair = number(result, "sft", measure, reference="base")
        assert pair.value == pytest.approx(own.value - other.value, abs=1e-12)  # float64 rounding
        assert pair.high - pair.low < 0.5 * (own.high - own.low)


def test_outlying_tokens_are_counted_by_the_threshold_of_the_base() -> None:
    norms = BASE.sites["block_02:norms"].copy()
    norms[:30, 4] = 500  # one token of nine in a tenth of the images
    found = geometry(BASE, [changed(BASE, "register", "block_02:norms", norms)])
    share = number(found, "register", "high_norm")
    assert share.value == pytest.approx(1 / 90) and 0 < share.low < share.high < 0.02
    assert number(found, "base", "high_norm").value == 0
    assert number(found, "register", "high_norm", reference="base").low > 0
    larger = changed(SFT, "larger", "block_02:norms", 10 * BASE.sites["block_02:norms"])
    assert number(geometry(BASE, [larger]), "larger", "high_norm").value == 1  # a shift of all norms does not hide


def test_without_a_fixed_grid_the_rest_is_measured() -> None:
    result = geometry(without_norms(BASE), [without_norms(SFT)])
    assert "high_norm" not in {row.measure for row in result.rows}
    assert result.settings["high_norm_threshold"] is None


def test_identical_towers_equal_images_and_few_images_are_said() -> None:
    twins = SFT.sites["block_02"].copy()
    twins[1] = twins[0]
    result = geometry(BASE, [replace(BASE, encoder="copy"), changed(SFT, "twins", "block_02", twins)])
    assert result.settings["identical"] == ["copy"] and not result.select(checkpoint="copy")
    assert number(result, "twins", "two_nn").n == 299
    assert not result.select(checkpoint="twins", measure="two_nn", site="block_02", reference="base")
    few = geometry(planted_features("base", 0, n=50, d=6), [planted_features("sft", 0.1, n=50, d=6)])
    assert "50 images for 6 dimensions at block_02" in few.warnings[0]


@pytest.mark.parametrize(
    ("base", "other", "words"),
    [
        (planted_features("base", 0, n=49), planted_features("a", 1, n=49), "49 usable images"),
        (BASE, changed(SFT, "sft", "projected", np.ones((300, 6))), "sft at projected on val.*no variance"),
        (BASE, changed(SFT, "sft", "block_02", np.full((300, 6), np.nan)), "not finite"),
    ],
)
def test_what_has_no_geometry_is_refused(base: FeatureSet, other: FeatureSet, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        geometry(base, [other])
    assert caught.value.hint
