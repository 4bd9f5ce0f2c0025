"""Prototypes of few images: planted truth, an independent computation, and what the interval is of."""

from dataclasses import replace

import numpy as np
import pytest
from planted_features import feature_set

from visprobe.analyses.accuracy.few_labels import few_label_accuracy
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.classifiers.label_draws import label_draws


def planted(name: str, spread: float, seed: int = 0, images: str = "val", n: int = 80) -> FeatureSet:
    means = np.random.default_rng(7).standard_normal((4, 16))
    labels, rng = np.tile(np.arange(4), n // 4), np.random.default_rng(seed)
    sites = {"block_02": means[labels] + spread * rng.standard_normal((n, 16))}
    return feature_set(name, sites, labels.astype(np.int64), tuple("abcd"), images, prefix=images)


QUERY = [planted("base", 1.5), planted("sft", 1.0), planted("untrained", 1e6)]
SUPPORT = [planted(f.encoder, s, 1, "train", 60) for f, s in zip(QUERY, (1.5, 1.0, 1e6), strict=True)]


def test_more_labels_and_better_features_help_and_the_untrained_stays_at_chance() -> None:
    result = few_label_accuracy(QUERY, SUPPORT)
    base = [result.select(checkpoint="base", measure=f"top1_of_{k}")[0].estimate for k in (1, 5, 10)]
    sft = [result.select(checkpoint="sft", measure=f"top1_of_{k}", role="value")[0].estimate for k in (1, 5, 10)]
    assert base[0].value < base[1].value < base[2].value
    assert all(better.value > worse.value for better, worse in zip(sft, base, strict=True))
    [baseline] = result.select(checkpoint="untrained", measure="top1_of_5")
    assert baseline.role == "baseline" and baseline.estimate.low < 0.25 < baseline.estimate.high
    assert base[0].high - base[0].low > base[2].high - base[2].low  # one picture per class depends on the picture
    assert "5 draws and the images" in base[0].method and result.settings["per_class_drawn"] == [1, 5, 10]
    assert result.warnings == ("50 per class left out: a class has 15 images",)


def test_the_mean_is_over_the_draws_and_differences_share_them() -> None:
    result = few_label_accuracy(QUERY[:2], SUPPORT[:2])
    expected = {}
    for query, support in zip(QUERY[:2], SUPPORT[:2], strict=True):
        units = [f.sites["block_02"] / np.linalg.norm(f.sites["block_02"], axis=1)[:, None] for f in (query, support)]
        found = []
        for draw in label_draws(support.labels, [5], 5)[5]:
            means = np.stack([units[1][draw][support.labels[draw] == one].mean(0) for one in range(4)])
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            found.append(((units[0] @ means.T).argmax(1) == query.labels).mean())
        expected[query.encoder] = np.mean(found)
    [base] = result.select(checkpoint="base", measure="top1_of_5")
    [difference] = result.select(measure="top1_of_5", role="difference")
    assert base.estimate.value == pytest.approx(expected["base"], abs=1e-12)  # float64 means
    assert difference.estimate.value == pytest.approx(expected["sft"] - expected["base"], abs=1e-12)


def test_a_single_image_of_a_class_leaves_nothing_to_draw() -> None:
    few = [
        replace(f, item_ids=f.item_ids[:4], labels=f.labels[:4], sites={"block_02": f.sites["block_02"][:4]})
        for f in SUPPORT
    ]
    with pytest.raises(DataError, match="nothing to draw"):
        few_label_accuracy(QUERY, few)
