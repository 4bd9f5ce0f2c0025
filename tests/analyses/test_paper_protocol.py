"""The published protocol: far above chance on noise, and what is left when the leak is closed."""

import numpy as np
import pytest
from planted_features import feature_set
from sklearn.linear_model import LogisticRegression

from visprobe.analyses.accuracy.paper_protocol import CS, _protocols, paper_protocol
from visprobe.analyses.accuracy.task import make_task
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.proportions import wilson


def noise(images: str, seed: int, classes: int = 10, each: int = 20, d: int = 128, signal: float = 0.0) -> FeatureSet:
    labels = np.repeat(np.arange(classes), each)
    means = np.random.default_rng(9).standard_normal((classes, d))
    rows = np.random.default_rng(seed).standard_normal((len(labels), d)) + signal * means[labels]
    names = tuple(f"class {i}" for i in range(classes))
    return feature_set("base", {"block_02": rows}, labels.astype(np.int64), names, images, prefix=images)


def one(result, measure: str):
    return result.select(measure=measure)[0].estimate


def test_on_noise_the_published_prototypes_see_classes_and_the_honest_ones_do_not() -> None:
    result = paper_protocol([noise("val", 0)], None)
    assert one(result, "paper_prototype").value > 0.6  # chance is 0.1
    low, high = wilson(round(200 * one(result, "honest_prototype").value), 200, level=0.999)  # the seed is fixed
    assert low <= 0.1 <= high
    leak = one(result, "leak_prototype")
    assert leak.low > 0.4 and leak.low < leak.value < leak.high
    expected = one(result, "paper_prototype").value - one(result, "honest_prototype").value
    assert leak.value == pytest.approx(expected, abs=1e-12)  # float64 rounding
    assert result.warnings == ("no train split: only prototypes can be had",)


def test_prototypes_are_those_of_the_published_script_and_of_a_loop_without_the_image() -> None:
    features = noise("val", 1, signal=0.1)
    rows = features.sites["block_02"] / np.linalg.norm(features.sites["block_02"], axis=1, keepdims=True)
    labels = features.labels
    means = np.stack([rows[labels == c].mean(0) for c in range(10)])
    result = paper_protocol([features], None)
    assert one(result, "paper_prototype").value == ((100 * rows @ means.T).argmax(1) == labels).mean()
    right = 0
    for i, row in enumerate(rows):
        rest = np.arange(200) != i
        right += (np.stack([rows[rest & (labels == c)].mean(0) for c in range(10)]) @ row).argmax() == labels[i]
    assert one(result, "honest_prototype").value == right / 200


def test_every_image_is_right_or_wrong_as_in_a_restatement_of_the_published_script() -> None:
    """Prototypes top-1 and top-5 and the probe with its C, image by image, as `eval_imagenet.py` computes them."""
    query, support = noise("val", 6, 8, 12, 24, 0.35), noise("train", 7, 8, 40, 24, 0.35)
    task = make_task([query], [support])
    found = dict(_protocols(task.query[0], "block_02", task))
    units, learned = (f.sites["block_02"] / np.linalg.norm(f.sites["block_02"], axis=1, keepdims=True)
                      for f in (query, support))  # fmt: skip
    means = np.stack([units[query.labels == c].mean(0) for c in range(8)])
    order = np.argsort(-100 * units @ means.T, axis=1, kind="stable")
    assert found["prototype"].published.tolist() == (order[:, 0] == query.labels).tolist()
    assert found["prototype_top5"].published.tolist() == (order[:, :5] == query.labels[:, None]).any(1).tolist()
    fits = [LogisticRegression(C=c, max_iter=1000, tol=1e-10).fit(learned, support.labels) for c in CS]
    right = [fit.predict(units) == query.labels for fit in fits]
    best = int(np.argmax([one.sum() for one in right]))
    assert found["fast"].published.tolist() == right[best].tolist() and found["fast"].c[0] == CS[best]
    result = paper_protocol([query], [support])
    assert one(result, "paper_fast_c").value == CS[best] and one(result, "honest_fast_c").value in CS
    assert one(result, "paper_prototype_top5").value == (order[:, :5] == query.labels[:, None]).any(1).mean()


def test_the_regression_is_that_of_scikit_learn_at_the_best_c_of_the_test_images() -> None:
    query, support = noise("val", 2, 4, 30, 16, 0.5), noise("train", 3, 4, 30, 16, 0.5)
    result = paper_protocol([query], [support])
    units = [f.sites["block_02"] / np.linalg.norm(f.sites["block_02"], axis=1, keepdims=True) for f in (query, support)]
    scores = [
        LogisticRegression(C=c, max_iter=1000).fit(units[1], support.labels).score(units[0], query.labels) for c in CS
    ]
    assert one(result, "paper_fast").value == pytest.approx(max(scores), abs=1 / 120)  # an image at a boundary may turn
    assert one(result, "leak_fast").value >= 0
    assert not result.select(measure="paper_slow")
    assert '"fast" with 30 training images per class' in result.warnings[0]


def test_all_training_images_are_used_where_there_are_more_than_50_per_class() -> None:
    result = paper_protocol([noise("val", 4, 3, 20, 8, 0.5)], [noise("train", 5, 3, 60, 8, 0.5)])
    assert {row.measure for row in result.rows} == {
        f"{kind}_{protocol}" for kind in ("paper", "honest", "leak") for protocol in ("prototype", "fast", "slow")
    } | {f"{kind}_{protocol}_c" for kind in ("paper", "honest") for protocol in ("fast", "slow")}
    assert not result.warnings
