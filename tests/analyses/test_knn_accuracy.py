"""kNN accuracy: planted truth, noise at chance, an independent vote, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest
from planted_features import feature_set
from sklearn.neighbors import KNeighborsClassifier

from visprobe.analyses.accuracy import knn
from visprobe.analyses.accuracy.knn import knn_accuracy
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.proportions import wilson

CLASSES = ("ant", "bee", "cat", "dog")


def planted(name: str, spread: float, seed: int = 0, images: str = "val", n: int = 120) -> FeatureSet:
    means = np.random.default_rng(7).standard_normal((4, 16))
    labels, rng = np.tile(np.arange(4), n // 4), np.random.default_rng(seed)
    sites = {
        site: spread * rng.standard_normal((n, 16)) + (means[labels] if spread < 100 else 0)
        for site in ("block_01", "block_02", "projected")
    }
    return feature_set(name, sites, labels.astype(np.int64), CLASSES, images, prefix=images)


def value(result, checkpoint: str, measure: str, site: str = "block_02") -> float:
    return next(r.estimate.value for r in result.select(checkpoint=checkpoint, site=site, measure=measure))


def test_planted_order_is_found_and_noise_is_at_chance() -> None:
    result = knn_accuracy([planted("base", 2.0), planted("sft", 0.3), planted("untrained", 1e3)], None)
    assert value(result, "untrained", "knn_20") < 0.4 < value(result, "base", "knn_20") < value(result, "sft", "knn_20")
    low, high = wilson(round(120 * value(result, "untrained", "knn_20")), 120, level=0.999)  # the seed is fixed
    assert low <= 0.25 <= high
    [row] = result.select(role="difference", measure="knn_20", site="block_02")
    assert (row.checkpoint, row.reference) == ("sft", "base") and row.estimate.low > 0
    assert {test["measure"] for test in result.settings["mcnemar"]} == {"knn_10", "knn_20", "knn_100"}
    assert all(test["p"] <= test["p_holm"] <= 1 for test in result.settings["mcnemar"])


def test_the_vote_is_that_of_scikit_learn() -> None:
    query, support = planted("base", 2.0), planted("base", 2.0, 1, "train")
    result = knn_accuracy([query], [support])

    def unit(features: FeatureSet) -> np.ndarray:
        rows = features.sites["block_02"].astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    for k in (10, 20, 100):
        votes = KNeighborsClassifier(k, weights=lambda distance: np.exp((1 - distance**2 / 2) / 0.07))
        expected = votes.fit(unit(support), support.labels).score(unit(query), query.labels)
        assert value(result, "base", f"knn_{k}") == expected


def test_one_k_is_tried_everywhere_and_the_others_where_the_language_model_reads(monkeypatch) -> None:
    result = knn_accuracy([planted("base", 2.0)], None)
    tried = {(row.measure, row.site) for row in result.rows}
    assert tried == {("knn_20", "block_01")} | {
        (f"knn_{k}", s) for k in (10, 20, 100) for s in ("block_02", "projected")
    }
    assert result.warnings == ("k = 200 left out: there are 119 images to search",)
    monkeypatch.setattr(knn, "MOST", 1000)
    long = knn_accuracy([planted("base", 2.0)], None)
    assert {row.site for row in long.rows} == {"block_02", "projected"}
    assert "too long elsewhere" in long.warnings[1]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (planted("base", 1.0, n=8), "7 images to search for 10"),
        (replace(planted("base", 1.0), labels=None), "no labels"),
        (replace(planted("base", 1.0), sites={"block_02": np.zeros((120, 3), np.float32)}), "base at block_02"),
    ],
)
def test_what_cannot_be_searched_is_refused(features: FeatureSet, words: str) -> None:
    with pytest.raises(DataError, match=words):
        knn_accuracy([features], None)
