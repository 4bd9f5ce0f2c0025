import json
import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from planted_features import feature_set, reordered

from visprobe.analyses.drift.drift import representation_drift
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.similarity.cka import debiased_cka
from visprobe.results.result import Estimate, Result

SITES = ("block_00", "block_01", "block_02", "projected")


def planted(name: str, noise: tuple[float, ...], n: int = 120, seed: int = 1) -> FeatureSet:
    """The same images at four sites, each moved by its own amount of noise."""
    shared = {site: np.random.default_rng(i).standard_normal((n, 16)) for i, site in enumerate(SITES)}
    rng = np.random.default_rng(seed)
    moved = {site: shared[site] + e * rng.standard_normal((n, 16)) for site, e in zip(SITES, noise, strict=True)}
    return feature_set(name, moved)


BASE = planted("base", (0, 0, 0, 0))
SFT = planted("sft", (0.1, 0.2, 0.6, 0.6), seed=2)
DPO = planted("dpo", (0.1, 0.1, 0.2, 0.6), seed=3)
ROUNDED = planted("base (bfloat16)", (0.002, 0.002, 0.002, 0.002), seed=4)
UNTRAINED = planted("untrained", (1e3, 1e3, 1e3, 1e3), seed=5)


def cka(result: Result, checkpoint: str, site: str, reference: str = "base") -> Estimate:
    return result.select(checkpoint=checkpoint, site=site, measure="cka", reference=reference)[0].estimate


def test_planted_drift_is_found_between_its_baselines() -> None:
    result = representation_drift(BASE, [SFT, DPO], [UNTRAINED, ROUNDED])
    for site in SITES:
        anchors = [cka(result, name, site).value for name in ("untrained", "sft", "base (bfloat16)")]
        assert anchors == sorted(anchors)
    values = [cka(result, "sft", site).value for site in SITES[:3]]
    assert values == sorted(values, reverse=True)
    assert {row.checkpoint for row in result.rows if row.role == "baseline"} == {"untrained", "base (bfloat16)"}
    assert result.settings["sites"] == list(SITES)
    assert result.settings["identical"] == []
    assert not result.warnings
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_rows_hold_the_metric_of_the_paired_images() -> None:
    order = np.random.default_rng(0).permutation(120)
    result = representation_drift(BASE, [reordered(SFT, order)])
    expected = debiased_cka(BASE.sites["block_01"], SFT.sites["block_01"])
    found = cka(result, "sft", "block_01")
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (expected.value, expected.low, expected.high, 120),
        abs=1e-12,  # float64 rounding
    )


def test_difference_of_descendants_is_signed_and_paired() -> None:
    result = representation_drift(BASE, [SFT, DPO])
    closer, same = (cka(result, "dpo", site, "sft") for site in ("block_02", "projected"))
    own, other = cka(result, "dpo", "block_02"), cka(result, "sft", "block_02")
    assert closer.value == pytest.approx(own.value - other.value, abs=1e-12)  # float64 rounding
    assert closer.low > 0
    assert same.low < 0 < same.high
    assert {row.role for row in result.select(reference="sft")} == {"difference"}


def test_an_untouched_tower_is_a_statement_and_not_a_drift_of_zero() -> None:
    frozen = replace(BASE, encoder="frozen", sites={**BASE.sites, "projected": SFT.sites["projected"]})
    result = representation_drift(BASE, [replace(BASE, encoder="copy"), frozen, SFT])
    assert result.settings["identical"] == ["copy", "frozen"]
    assert not result.select(checkpoint="copy")
    assert [(row.site, row.role) for row in result.select(checkpoint="frozen", reference="base")] == [
        ("projected", "value")
    ]
    assert [text.split(":")[0] for text in result.warnings] == ["copy", "frozen"]
    assert all("not trained or not saved" in text for text in result.warnings)


def test_one_untouched_site_of_a_trained_tower_is_exactly_one() -> None:
    partly = replace(SFT, sites={**SFT.sites, "block_00": BASE.sites["block_00"]})
    estimate = cka(representation_drift(BASE, [partly]), "sft", "block_00")
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1), abs=1e-12)  # float64 rounding


def test_a_site_that_one_side_lacks_is_left_out() -> None:
    bare = replace(BASE, sites={site: BASE.sites[site] for site in SITES[:3]})
    assert {row.site for row in representation_drift(bare, [SFT]).rows} == set(SITES[:3])
    assert {row.site for row in representation_drift(BASE, [replace(bare, encoder="x"), SFT]).rows} <= set(SITES)


def with_outlier(features: FeatureSet, at: int, size: float) -> FeatureSet:
    array: NDArray[np.float32] = features.sites["block_02"].copy()
    array[at] += size
    return replace(features, sites={**features.sites, "block_02": array})


def test_one_image_that_makes_the_interval_is_named() -> None:
    result = representation_drift(BASE, [with_outlier(SFT, 31, 60)])
    assert any("sft at block_02" in text and "image-0031" in text for text in result.warnings)


def test_several_images_that_make_the_interval_are_named_together() -> None:
    base, sft = planted("base", (0, 0, 0, 0), n=400), planted("sft", (0.1, 0.2, 0.6, 0.6), n=400, seed=2)
    for at in (7, 123, 300):
        sft = with_outlier(sft, at, 15)
    [warning] = representation_drift(base, [sft]).warnings
    assert "sft at block_02" in warning
    assert "2 of 400 images" in warning  # of three equal ones two make more than half
    assert set(re.findall(r"image-\d+", warning)) < {"image-0007", "image-0123", "image-0300"}


def test_few_images_are_pointed_out() -> None:
    few = representation_drift(planted("base", (0, 0, 0, 0), n=12), [planted("sft", (1, 1, 1, 1), n=12)])
    assert ["12 images are few" in text for text in few.warnings] == [True]  # not once more for every site


@pytest.mark.parametrize(
    ("base", "other", "words"),
    [
        (planted("base", (0, 0, 0, 0), n=4), planted("sft", (1, 1, 1, 1), n=4), "4 usable images"),
        (BASE, replace(SFT, sites={"block_01": np.ones((120, 3), np.float32)}), "sft at block_01.*no variance"),
        (replace(BASE, sites={"block_01": np.ones((120, 3), np.float32)}), SFT, "base at block_01.*no variance"),
        (BASE, with_outlier(SFT, 8, np.nan), "sft.*block_02.*image-0008"),
        (BASE, replace(SFT, item_ids=tuple(map(str, range(120)))), "same images"),
    ],
)
def test_what_cannot_be_measured_is_refused(base: FeatureSet, other: FeatureSet, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        representation_drift(base, [other])
    assert caught.value.hint
