import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from planted_features import feature_set, reordered
from scipy.stats import binomtest

from visprobe.analyses.imagenet import prototype_accuracy
from visprobe.analyses.result import Result
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")


def planted(name: str, spread: float, seed: int = 0, images: str = "val", classes: int = 8) -> FeatureSet:
    """80 images in clusters at two sites; the smaller the spread, the easier."""
    means = np.random.default_rng(7).standard_normal((classes, 24))
    labels = np.tile(np.arange(classes), 80 // classes)
    rng = np.random.default_rng(seed)
    sites = {site: means[labels] + spread * rng.standard_normal((80, 24)) for site in ("block_02", "projected")}
    return feature_set(name, sites, labels.astype(np.int64), CLASSES[:classes], images, prefix=images)


def top1(result: Result, checkpoint: str, site: str = "block_02") -> float:
    return next(r.estimate.value for r in result.select(checkpoint=checkpoint, site=site, measure="top1"))


def test_planted_order_of_checkpoints_is_found_with_floor_and_settings() -> None:
    sets = [planted("base", 2.5), planted("sft", 0.2), planted("dpo", 0.2, seed=1), planted("untrained", 1e6)]
    result = prototype_accuracy(sets, None, floor=["untrained"])
    assert top1(result, "sft") == top1(result, "dpo") == 1.0
    assert top1(result, "untrained") < 0.3 < top1(result, "base") < 1.0
    assert {row.role for row in result.select(checkpoint="untrained")} == {"floor"}
    better = result.select(checkpoint="sft", reference="base", site="block_02", role="difference")[0].estimate
    assert better.value == pytest.approx(1 - top1(result, "base"), abs=1e-12)  # float64 rounding
    assert 0 < better.low < better.value < better.high
    equal = result.select(checkpoint="dpo", reference="sft", site="block_02", role="difference")[0].estimate
    assert equal.low < 0 == equal.value < equal.high
    pairs = {(row.checkpoint, row.reference) for row in result.rows if row.role == "difference"}
    assert pairs == {("sft", "base"), ("dpo", "base"), ("dpo", "sft")}
    assert result.settings["chance"] == 1 / 8
    assert result.settings["consumed"] == "block_02"
    assert result.settings["protocol"] == "leave-one-out"
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_mcnemar_p_is_that_of_the_discordant_images() -> None:
    sets = [planted("base", 4.0), planted("sft", 0.2)]
    result = prototype_accuracy(sets, None)
    wrong = round(80 * (1 - top1(result, "base")))  # sft is right everywhere, so these are the discordant ones
    entry = result.settings["mcnemar"][0]
    assert (entry["checkpoint"], entry["reference"], entry["site"]) == ("sft", "base", "block_02")
    assert entry["p"] == pytest.approx(binomtest(0, wrong).pvalue, rel=1e-9)  # two float64 tail sums


def test_checkpoints_are_paired_by_id_not_by_position() -> None:
    sets = [planted("base", 3.0), planted("sft", 3.0, seed=1)]
    order = np.random.default_rng(0).permutation(80)
    expected = prototype_accuracy(sets, None)
    assert prototype_accuracy([sets[0], reordered(sets[1], order)], None).rows == expected.rows


def test_support_with_other_class_numbers_and_an_extra_class_is_matched_by_name() -> None:
    query = planted("base", 0.2, classes=5)
    support = planted("base", 0.2, seed=3, images="train")
    flipped = replace(support, labels=7 - support.labels, classes=CLASSES[::-1])  # type: ignore[operator]
    result = prototype_accuracy([query], [flipped])
    assert top1(result, "base") == 1.0
    assert result.settings["classes"] == 8  # the three classes without a query image stay in the running
    assert result.settings["protocol"] == "disjoint support"
    assert not result.warnings


def test_top5_is_given_only_above_five_classes() -> None:
    assert prototype_accuracy([planted("base", 5.0)], None).select(measure="top5")
    assert not prototype_accuracy([planted("base", 5.0, classes=5)], None).select(measure="top5")


def test_a_class_without_query_images_is_left_out_of_leave_one_out() -> None:
    base = planted("base", 0.2, classes=4)
    assert prototype_accuracy([replace(base, classes=CLASSES)], None).settings["classes"] == 4


def test_copies_of_support_images_are_pointed_out() -> None:
    support = planted("base", 0.2)
    query = replace(support, images="test", item_ids=tuple(f"other-{i}" for i in range(80)))
    assert "80 of 80 images" in prototype_accuracy([query], [support]).warnings[0]


def test_another_consumed_site_is_pointed_out() -> None:
    sets = [planted("base", 1.0), replace(planted("sft", 1.0), consumed="projected")]
    assert "sft is read at projected, base at block_02" in prototype_accuracy(sets, None).warnings[0]


def broken(value: float) -> FeatureSet:
    base = planted("sft", 1.0)
    sites: dict[str, NDArray[np.float32]] = {site: array.copy() for site, array in base.sites.items()}
    sites["projected"][17, 3] = value
    return replace(base, sites=sites)


BASE = planted("base", 1.0)
LABELS = np.tile(np.arange(8), 10)


@pytest.mark.parametrize(
    ("query", "support", "words"),
    [
        ([replace(BASE, labels=None)], None, "no labels"),
        ([replace(BASE, labels=np.zeros(80, np.int64))], None, "single class, ant"),
        ([BASE, replace(BASE, encoder="sft", labels=7 - LABELS)], None, "different labels"),
        ([BASE], [planted("base", 1.0, images="train", classes=5)], "no image of fox, gnu, hen"),
        ([replace(BASE, labels=np.where(np.arange(80) == 5, 5, LABELS % 5))], None, "fox has one"),
        ([BASE, broken(np.nan)], None, "sft.*projected.*first val-0017"),
        ([BASE, broken(np.inf)], None, "sft.*projected.*first val-0017"),
        ([BASE, replace(BASE, encoder="sft", item_ids=tuple(map(str, range(80))))], None, "same images"),
        ([replace(BASE, item_ids=("twice",) * 80)], None, "more than once"),
        ([BASE], [BASE], "in the support set too"),
        ([BASE], [planted("sft", 1.0, images="train")], "no support features at block_02, projected"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    query: list[FeatureSet], support: list[FeatureSet] | None, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        prototype_accuracy(query, support)
    assert caught.value.hint
