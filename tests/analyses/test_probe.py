"""Probes of classes: planted truth, scikit-learn, noise, few labels, one split, and what cannot be probed."""

from dataclasses import replace

import numpy as np
import pytest
from planted_features import feature_set
from sklearn.linear_model import LogisticRegression

from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.probes.classes import macro_recall
from visprobe.analyses.probes.config import ProbeConfig
from visprobe.analyses.probes.probe import probe_analysis
from visprobe.errors import DataError, UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.proportions import wilson
from visprobe.metrics.segmentation import class_tallies
from visprobe.results.result import Result

CLASSES, WIDTH = 4, 16
HOW = ProbeConfig(per_class=(1, 5), seeds=2)


def planted(name: str, spread: float, images: str = "val", n: int = 120, seed: int = 0) -> FeatureSet:
    """Class means and noise of `spread`; one unit is 5, so that nothing rests on features being of size 1."""
    means = np.random.default_rng(7).standard_normal((CLASSES, WIDTH))
    labels, rng = np.tile(np.arange(CLASSES), n // CLASSES), np.random.default_rng(seed + (images == "train"))
    rows = 5 * (means[labels] + spread * rng.standard_normal((n, WIDTH)))
    return feature_set(name, {"block_02": rows, "block_01": rows[:, :4]}, labels.astype(np.int64), tuple("abcd"),
                       images, prefix=images)  # fmt: skip


def inputs(spreads: dict[str, float], *, support: bool = True, **size: int) -> Inputs:
    query = [planted(name, spread, **size) for name, spread in spreads.items()]
    learned = [planted(name, spread, "train") for name, spread in spreads.items()] if support else []
    baselines = tuple(features for features in query if features.encoder == "untrained")
    others = tuple(features for features in query[1:] if features not in baselines)
    encoder = type("Encoder", (), {"device": "cpu"})()
    return Inputs(query[0], others, baselines, (encoder,), support=tuple(learned))  # type: ignore[arg-type]


def run(given: Inputs, how: ProbeConfig = HOW) -> Result:
    return probe_analysis(how).run(given)


def test_it_is_scikit_learns_classifier_at_the_c_that_is_said() -> None:
    given = inputs({"base": 2.0})
    result = run(given)
    train, test = given.support[0], given.base
    x = train.sites["block_02"].astype(np.float64)
    c = result.settings["c"]["base"]["block_02"] / x.var(0).mean()
    reference = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10).fit(x, train.labels)
    chances = reference.predict_proba(test.sites["block_02"])
    [top1] = result.select(site="block_02", measure="probe_top1")
    [loss] = result.select(site="block_02", measure="probe_log_loss")
    assert top1.estimate.value == (chances.argmax(1) == test.labels).mean()
    own = chances[np.arange(len(chances)), test.labels]
    assert loss.estimate.value == pytest.approx(-np.log(own).mean(), abs=1e-3)  # fits stop 1e-3 from the minimum
    recall = [(chances.argmax(1) == k)[test.labels == k].mean() for k in range(CLASSES)]
    assert result.settings["recall"]["base"]["block_02"] == pytest.approx(recall, abs=1e-4)  # rounded there
    [brier] = result.select(site="block_02", measure="probe_brier")
    assert brier.estimate.value == pytest.approx(
        ((chances - np.eye(CLASSES)[test.labels]) ** 2).sum(1).mean(), abs=1e-3
    )


def test_noise_is_at_chance_separable_classes_at_the_ceiling_and_control_labels_teach_nothing() -> None:
    result = run(inputs({"base": 0.05, "noise": 1e6, "untrained": 1e6}, n=400))
    for name in ("noise", "untrained"):
        [row] = result.select(checkpoint=name, site="block_02", measure="probe_top1", role=row_role(name))
        low, high = wilson(round(row.estimate.value * 400), 400, level=0.999)  # a fixed seed; 1 in 1000 would miss
        assert low <= 1 / CLASSES <= high
        [control] = result.select(checkpoint=name, site="block_02", measure="probe_control")
        low, high = wilson(round(control.estimate.value * 400), 400, level=0.999)
        assert low <= 1 / CLASSES <= high
    [clear] = result.select(checkpoint="base", site="block_02", measure="probe_top1")
    assert clear.estimate.value == 1.0 and clear.estimate.high == 1.0
    [control] = result.select(checkpoint="base", site="block_02", measure="probe_control")
    [selective] = result.select(checkpoint="base", site="block_02", measure="probe_selectivity")
    assert selective.estimate.value == pytest.approx(1 - control.estimate.value)
    assert not [
        row for row in result.rows if row.role == "difference" and "untrained" in (row.checkpoint, row.reference)
    ]


def row_role(name: str) -> str:
    return "baseline" if name == "untrained" else "value"


def test_differences_are_paired_and_their_tests_adjusted_over_sites() -> None:
    result = run(inputs({"base": 3.0, "sft": 1.0}))
    [top1] = result.select(site="block_02", measure="probe_top1", role="difference")
    [loss] = result.select(site="block_02", measure="probe_log_loss", role="difference")
    assert top1.estimate.low > 0 and loss.estimate.high < 0 and top1.reference == "base"
    values = {row.checkpoint: row.estimate.value for row in result.select(site="block_02", measure="probe_log_loss",
                                                                          role="value")}  # fmt: skip
    assert loss.estimate.value == pytest.approx(values["sft"] - values["base"], abs=1e-12)
    tests = [one for one in result.settings["tests"] if one["measure"] == "probe_log_loss"]
    assert len(tests) == 2 and all(one["p_holm"] >= one["p"] for one in tests)
    same = run(replace(given := inputs({"base": 3.0, "copy": 3.0}), support=given.support))
    assert all(row.estimate.value == 0 for row in same.rows if row.role == "difference")
    assert {one["p"] for one in same.settings["tests"]} == {1.0}


def test_more_labels_help_and_sizes_that_a_class_does_not_have_are_said() -> None:
    result = run(inputs({"base": 2.0}), ProbeConfig(per_class=(1, 5, 20, 50), seeds=3))
    few = [result.select(site="block_02", measure=f"probe_of_{size}")[0].estimate for size in (1, 5, 20)]
    assert few[0].value < few[1].value < few[2].value and "3 draws" in few[0].method
    assert not result.select(measure="probe_of_50")
    assert "50 per class left out: a class has 30 training images" in result.warnings


def test_one_split_is_cut_in_two_by_class() -> None:
    result = run(inputs({"base": 1.0}, support=False))
    assert result.settings["n"] == result.settings["n_support"] == 60
    assert "half of each class" in result.settings["protocol"]
    [top1] = result.select(site="block_02", measure="probe_top1")
    assert top1.estimate.value > 0.8


def test_a_mean_of_recalls_is_that_of_the_tallies() -> None:
    rng = np.random.default_rng(0)
    labels, found = np.r_[rng.integers(0, 5, 40), 6], rng.integers(0, 7, 41)
    hot = np.eye(7, dtype=np.int64)
    tallies = class_tallies.Tallies(hot[found] * hot[labels], hot[found], hot[labels])
    ours, theirs = macro_recall(found == labels, labels), class_tallies.macro_recall(tallies)
    assert ours.value == pytest.approx(theirs.value)
    np.testing.assert_allclose(ours.without, theirs.without)


def test_what_cannot_be_probed_is_refused_in_one_message() -> None:
    given = inputs({"base": 1.0})
    train = given.support[0]
    lonely = replace(train, labels=np.where(np.arange(120) < 119, np.minimum(train.labels, 2), 3))
    cases = {
        "fewer than two training images of d": replace(given, support=(lonely,)),
        "has no image of d": replace(given, support=(replace(train, labels=np.minimum(train.labels, 2)),)),
        "single class": replace(given, base=replace(given.base, labels=0 * given.base.labels), support=()),
        "no labels": replace(given, base=replace(given.base, labels=None)),
    }
    for words, broken in cases.items():
        with pytest.raises(DataError, match=words):
            run(broken)
    with pytest.raises(UsageError, match="cannot be drawn"):
        probe_analysis(ProbeConfig(seeds=1))
