import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from planted_features import feature_set, reordered
from scipy.stats import binomtest

from visprobe.analyses.accuracy.imagenet import prototype_accuracy
from visprobe.analyses.accuracy.rows import against_baselines
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.results.result import Result

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


def test_planted_order_of_checkpoints_is_found_with_baseline_and_settings() -> None:
    sets = [planted("base", 2.5), planted("sft", 0.2), planted("dpo", 0.2, seed=1), planted("untrained", 1e6)]
    result = prototype_accuracy(sets, None)
    assert top1(result, "sft") == top1(result, "dpo") == 1.0
    assert top1(result, "untrained") < 0.3 < top1(result, "base") < 1.0
    assert {row.role for row in result.select(checkpoint="untrained")} == {"baseline"}
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
    assert result.warnings[0].startswith("hen, gnu, fox: no image in val") and len(result.warnings) == 1


def test_top5_is_given_only_above_five_classes() -> None:
    assert prototype_accuracy([planted("base", 5.0)], None).select(measure="top5")
    assert not prototype_accuracy([planted("base", 5.0, classes=5)], None).select(measure="top5")


def test_a_class_without_query_images_is_left_out_of_leave_one_out() -> None:
    base = planted("base", 0.2, classes=4)
    assert prototype_accuracy([replace(base, classes=CLASSES)], None).settings["classes"] == 4


def test_copies_of_support_images_are_always_counted() -> None:
    files = tuple(f"hash-{i}" for i in range(80))
    support = replace(planted("base", 0.2, images="train"), contents=files)
    other = tuple(f"other-{i}" for i in range(80))
    query = replace(planted("base", 0.2), contents=(*files[:7], *other[7:]))
    result = prototype_accuracy([query], [support])
    assert "7 of 80 images of val are in train too" in result.warnings[0]
    assert result.settings["overlap"]["images"] == 7
    clean = prototype_accuracy([replace(query, contents=other)], [support])
    assert clean.settings["overlap"] == {"images": 0, "examples": []} and not clean.warnings
    twice = prototype_accuracy([replace(query, contents=(files[1], *files[1:]))], None)
    assert "1 of 80 images of val are there twice" in twice.warnings[0]


def test_classes_of_one_picture_or_two_are_pointed_out() -> None:
    support = planted("base", 0.2, seed=3, images="train")
    assert support.labels is not None
    few = reordered(support, np.flatnonzero((support.labels != 2) | (np.arange(80) < 16)))
    assert prototype_accuracy([planted("base", 0.2)], [few]).warnings[0].startswith("cat: fewer than 3 images")


def test_p_values_are_adjusted_over_the_sites_of_a_pair() -> None:
    result = prototype_accuracy([planted("base", 3.0), planted("sft", 1.5, seed=1), planted("dpo", 3.0, seed=2)], None)
    tests = result.settings["mcnemar"]
    for pair in (("sft", "base"), ("dpo", "base"), ("dpo", "sft")):
        own = [test for test in tests if (test["checkpoint"], test["reference"]) == pair]
        small, large = sorted(test["p"] for test in own)  # Holm over two sites, written out
        assert sorted(test["p_holm"] for test in own) == pytest.approx(
            sorted([min(1, 2 * small), max(min(1, 2 * small), large)])
        )


def test_the_projector_costs_what_is_lost_on_the_same_images() -> None:
    base = planted("base", 0.2)
    rng = np.random.default_rng(3)
    blurred = base.sites["projected"] + 4 * rng.standard_normal((80, 24)).astype(np.float32)
    worse = replace(base, sites={**base.sites, "projected": blurred})
    [row] = prototype_accuracy([worse], None).select(measure="projector_cost")
    expected = top1(prototype_accuracy([worse], None), "base", "projected") - 1.0
    assert row.role == "value" and row.site == "projected"
    assert row.estimate.value == pytest.approx(expected, abs=1e-12)  # float64 rounding
    assert row.estimate.low < row.estimate.value < row.estimate.high < 0


def test_a_change_of_one_class_alone_is_named_and_uncertain_over_classes() -> None:
    base, sft = planted("base", 0.2), planted("sft", 0.2)
    array = np.array(sft.sites["block_02"])
    array[LABELS == 4] = -array[LABELS == 4]
    result = prototype_accuracy([base, replace(sft, sites={**sft.sites, "block_02": array})], None)
    # leave-one-out prototypes of the class turn with it, so that it is recognised all the same
    assert result.select(measure="top1_by_class", site="block_02")[0].estimate.value == 0
    mixed = np.array(sft.sites["block_02"])
    mixed[LABELS == 4] = sft.sites["block_02"][LABELS == 5]
    result = prototype_accuracy([base, replace(sft, sites={**sft.sites, "block_02": mixed})], None)
    [changed] = [one for one in result.settings["classes_changed"] if one["site"] == "block_02"]
    assert {one["class"] for one in changed["lost"]} <= {"elk", "fox"} and not changed["gained"]
    [by_class] = result.select(measure="top1_by_class", site="block_02")
    [by_image] = result.select(measure="top1", site="block_02", role="difference")
    assert by_class.estimate.n == 8 and by_class.estimate.value == by_image.estimate.value
    assert by_class.estimate.low < by_image.estimate.low < by_image.estimate.high < 0 < by_class.estimate.high


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


def test_a_checkpoint_and_the_untrained_tower_are_compared_image_by_image() -> None:
    """44 against 25 right of 120: the intervals of the two shares overlap, their paired difference is clear."""
    both, only_base, only_baseline = 14, 30, 11
    base, baseline = np.zeros(120, np.bool_), np.zeros(120, np.bool_)
    base[: both + only_base] = baseline[:both] = True
    baseline[both + only_base : both + only_base + only_baseline] = True
    right = {"base": {"block_02": base}, "same": {"block_02": baseline}, "untrained": {"block_02": baseline}}
    found = {one["checkpoint"]: one for one in against_baselines(right, "top1", ["untrained"])}
    assert (base.sum(), baseline.sum()) == (44, 25)
    assert found["base"]["value"] == pytest.approx(19 / 120) and found["base"]["low"] > 0
    assert found["base"]["p"] == pytest.approx(binomtest(only_baseline, only_base + only_baseline).pvalue)
    assert found["same"]["low"] < 0 < found["same"]["high"] and found["same"]["p"] == 1


def test_every_measurement_holds_the_paired_difference_to_its_baseline() -> None:
    sets = [planted("base", 2.5), planted("sft", 0.2), planted("untrained", 1e6)]
    against = prototype_accuracy(sets, None).settings["against_baselines"]
    assert {(one["checkpoint"], one["reference"]) for one in against} == {("base", "untrained"), ("sft", "untrained")}
    assert all(one["low"] > 0 for one in against if one["checkpoint"] == "sft")


def test_encoders_that_see_as_well_as_the_untrained_are_rarely_called_above_it() -> None:
    """400 pairs of encoders that are right on equally many images by chance: the exact test keeps below its 5 %."""
    rng, above = np.random.default_rng(0), 0
    for _ in range(400):
        difficulty = rng.uniform(0.1, 0.9, 120)  # some images are easy for both
        own, baseline = rng.random((2, 120)) < difficulty
        [found] = against_baselines({"base": {"s": own}, "untrained": {"s": baseline}}, "top1", ["untrained"])
        above += found["p"] <= 0.05 and found["value"] > 0
    assert above / 400 <= 0.025 + 3 * (0.025 * 0.975 / 400) ** 0.5  # one side of a two-sided 5 %
