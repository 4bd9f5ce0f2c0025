"""Similarity: planted rotations, linear maps, scales and unrelated features; brute force; bad input."""

from dataclasses import replace

import numpy as np
import pytest
from baseline_marks import mark
from numpy.typing import NDArray
from planted_similarity import SITES, planted_features, without_norms

from visprobe.analyses.similarity.similarity import similarity
from visprobe.analyses.similarity.similarity_more import similarity_more
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.similarity.cca import pwcca
from visprobe.results.result import Estimate, Result

BASE = without_norms(planted_features("base", 0.0, n=200, d=6))
SFT = without_norms(planted_features("sft", 0.1, n=200, d=6))
DPO = without_norms(planted_features("dpo", 0.4, n=200, d=6))
TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]


def mapped(name: str, matrix: NDArray[np.float64]) -> FeatureSet:
    return replace(BASE, encoder=name, sites={site: (x @ matrix).astype(np.float32) for site, x in BASE.sites.items()})


def number(result: Result, checkpoint: str, measure: str, site: str = "block_02", reference: str = "base") -> Estimate:
    (row,) = result.select(checkpoint=checkpoint, measure=measure, site=site, reference=reference)
    return row.estimate


def test_each_measure_sees_what_it_should_and_overlooks_the_rest() -> None:
    turned, bent = mapped("turned", TURN), mapped("bent", TURN * [5, 1, 1, 1, 1, 0.2])
    unrelated = replace(BASE, encoder="other", sites={s: x[::-1].copy() for s, x in BASE.sites.items()})
    result = similarity(BASE, [turned, bent, unrelated])
    # 1e-5: features are rounded to float32, and the penalty of the linear map is 1e-8 or more.
    for measure in ("procrustes", "linear_r2", "rbf_cka"):
        assert number(result, "turned", measure).value == pytest.approx(1, abs=1e-5)
    assert number(result, "turned", "cosine").value < 0.9
    assert number(result, "bent", "linear_r2").value == pytest.approx(1, abs=1e-5)
    assert number(result, "bent", "procrustes").high < 0.9
    for measure, null in (("procrustes", 0), ("linear_r2", 0), ("rbf_cka", 0), ("mutual_knn", 10 / 199)):
        assert number(result, "other", measure).low - 0.05 < null < number(result, "other", measure).high + 0.05


def test_relative_error_and_cosine_are_those_of_the_images_in_pairs() -> None:
    shuffled = np.random.default_rng(3).permutation(200)
    other = replace(
        SFT,
        item_ids=tuple(SFT.item_ids[i] for i in shuffled),
        sites={site: x[shuffled] for site, x in SFT.sites.items()},
    )
    result = similarity(BASE, [other])
    for site in SITES:
        a, b = (features.sites[site].astype(np.float64) for features in (BASE, SFT))
        lengths = np.linalg.norm(a, axis=1)
        errors = np.linalg.norm(b - a, axis=1) / lengths
        cosines = (a * b).sum(1) / lengths / np.linalg.norm(b, axis=1)
        found = number(result, "sft", "relative_error", site)
        assert found.value == pytest.approx(errors.mean(), rel=1e-12)
        # The jackknife of a mean is its standard error; t(199) at 97.5 % is 1.97196 to six digits.
        assert found.high - found.value == pytest.approx(1.97196 * errors.std(ddof=1) / 200**0.5, rel=1e-5)
        assert number(result, "sft", "cosine", site).value == pytest.approx(cosines.mean(), rel=1e-12)
    assert {row.site for row in result.select(measure="procrustes")} == {"block_02", "projected"}


def test_differences_of_descendants_are_signed_and_narrower_than_either() -> None:
    result = similarity(BASE, [SFT, DPO], [replace(DPO, encoder="untrained", baseline=mark("untrained"))])
    for measure in ("relative_error", "cosine", "procrustes", "linear_r2", "rbf_cka", "mutual_knn"):
        own, other = number(result, "dpo", measure), number(result, "sft", measure)
        pair = number(result, "dpo", measure, reference="sft")
        assert pair.value == pytest.approx(own.value - other.value, abs=1e-12)  # float64 rounding
        assert (pair.low > 0) if measure == "relative_error" else (pair.high < 0)
    assert {row.checkpoint for row in result.rows if row.role == "baseline"} == {"untrained"}
    twice = similarity(BASE, [SFT, replace(SFT, encoder="again")])
    zero = number(twice, "again", "mutual_knn", reference="sft")
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)


def test_change_per_weight_change_separates_further_from_otherwise() -> None:
    result = similarity(BASE, [SFT, DPO], weight_changes={"sft": 0.01, "dpo": 0.04, "none": 0.0})
    for name, change in (("sft", 0.01), ("dpo", 0.04)):
        moved, per = number(result, name, "relative_error"), number(result, name, "change_per_weight_change")
        assert (per.value, per.low, per.high) == pytest.approx(
            (moved.value / change, moved.low / change, moved.high / change), rel=1e-9
        )
    # Noise of four times the size under a weight change of four times the size: nothing but more of the same.
    pair = number(result, "dpo", "change_per_weight_change", reference="sft")
    assert abs(pair.value) < 0.1 * number(result, "sft", "change_per_weight_change").value


def test_an_untouched_tower_has_no_row_but_after_a_trained_connector() -> None:
    frozen = replace(BASE, encoder="frozen", sites={**BASE.sites, "projected": SFT.sites["projected"]})
    result = similarity(BASE, [frozen], weight_changes={"frozen": 0.0})
    assert result.settings["identical"] == ["frozen"] and "not trained" in result.warnings[0]
    assert {row.site for row in result.rows} == {"projected"}


def test_neighbours_and_kernels_are_of_a_spread_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    half = [replace(f, item_ids=f.item_ids[::2], sites={s: x[::2] for s, x in f.sites.items()}) for f in (BASE, SFT)]
    few = [measure._replace(most=100 if measure.most else None) for measure in similarity.__globals__["WHERE_READ"]]
    expected = number(similarity(half[0], half[1:]), "sft", "rbf_cka")
    monkeypatch.setitem(similarity.__globals__, "WHERE_READ", few)
    found = similarity(BASE, [SFT])
    assert number(found, "sft", "rbf_cka") == expected
    assert (number(found, "sft", "rbf_cka").n, number(found, "sft", "procrustes").n) == (100, 200)


def test_more_measures_and_too_few_images_for_cca() -> None:
    result = similarity_more(BASE, [SFT, DPO])
    origin, moved = (f.sites["block_02"] for f in (BASE, SFT))
    assert number(result, "sft", "pwcca").value == pytest.approx(pwcca(origin, moved), rel=1e-12)
    assert number(result, "dpo", "rsa").high < number(result, "sft", "rsa").low
    assert number(result, "dpo", "pwcca", reference="sft").high < 0
    wide = [replace(f, sites={"block_02": np.tile(f.sites["block_02"], 7)}) for f in (BASE, SFT)]
    short = similarity_more(wide[0], wide[1:])
    assert {row.measure for row in short.rows} == {"rsa"}
    assert "200 images are too few for 42 dimensions" in short.warnings[0]


@pytest.mark.parametrize(
    ("base", "other", "words"),
    [
        (without_norms(planted_features("base", 0, n=49)), without_norms(planted_features("a", 1, n=49)), "49 usable"),
        (BASE, replace(SFT, sites={**SFT.sites, "block_01": np.zeros((200, 6), np.float32)}), "sft.*block_01 on val"),
        (BASE, replace(SFT, sites={"block_02": SFT.sites["block_02"][:, :5]}), "do not correspond"),
        (BASE, replace(SFT, item_ids=tuple(map(str, range(200)))), "same images"),
    ],
)
def test_what_has_no_similarity_is_refused(base: FeatureSet, other: FeatureSet, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        similarity(base, [other])
    assert caught.value.hint


@pytest.mark.thorough
def test_units_beyond_rounding_are_found_by_pairs_of_images_and_rounding_is_not() -> None:
    """A rotation of a hundredth against rounding of a thousandth; and rounding drawn again, 40 times."""
    baseline = replace(
        planted_features("base", 0.001, n=200, d=6), encoder="base (bfloat16)", baseline=mark("base (bfloat16)")
    )
    turn = np.eye(6) + 0.01 * (TURN - TURN.T)
    p = similarity(BASE, [mapped("turned", turn)], [without_norms(baseline)]).settings["p_moved"]["turned"]
    assert set(p) == set(SITES) and all(one < 0.001 for one in p.values())
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        again, rounded = (
            replace(BASE, encoder=name, baseline=mark(name),
                    sites={s: (x + 0.001 * rng.standard_normal(x.shape)).astype(np.float32)
                           for s, x in BASE.sites.items()})
            for name in ("again", "base (bfloat16)")
        )  # fmt: skip
        p = similarity(BASE, [again], [rounded]).settings["p_moved"]["again"]
        alarms += min(p.values()) <= 0.05
    assert alarms <= 4  # 5 % of 40 and two; by the margin it is far fewer


@pytest.mark.thorough
def test_at_the_margin_itself_the_paired_test_of_errors_holds_its_rate() -> None:
    """Errors exactly sqrt(6) times those of rounding: the null at its boundary, 100 draws."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((60, 6))
        base = replace(BASE, item_ids=BASE.item_ids[:60], labels=None, classes=None, contents=(),
                       sites={"block_02": x.astype(np.float32)})  # fmt: skip
        noise = rng.standard_normal((2, 60, 6))
        sets = [
            replace(base, encoder=name, baseline=mark(name), sites={"block_02": (x + size * one).astype(np.float32)})
            for name, size, one in (("other", 0.01 * 6**0.5, noise[0]), ("base (bfloat16)", 0.01, noise[1]))
        ]
        p = similarity(base, sets[:1], sets[1:]).settings["p_moved"]["other"]["block_02"]
        alarms += p <= 0.05
    assert alarms / 100 <= 0.115  # 5 % and three standard errors
