"""When did it move: planted motion is found at its step, rounding is not taken for motion."""

import dataclasses

import numpy as np
import pytest
import torch
from baseline_marks import mark

from visprobe.analyses.drift.drift import rounding_of
from visprobe.analyses.drift.noise_floor import MARGIN, has_moved
from visprobe.analyses.runs.trajectory import State, measure_step, trajectory_result, trajectory_verdict
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.results.result import Estimate

N, WIDTH, CLASSES = 200, 12, 4


def state(name, shift=0.0, seed=1):
    """Features of four clusters, with independent noise of size `shift` added; and one weight moved as far."""
    generator = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    clean = generator.normal(size=(CLASSES, WIDTH))[labels] + generator.normal(size=(N, WIDTH))
    features = clean + shift * np.random.default_rng(seed).normal(size=clean.shape)
    sites = {"block_02": features.astype(np.float32), "projected": (2 * features).astype(np.float32)}
    query = FeatureSet(
        name, "digits/val", tuple(map(str, range(N))), labels, tuple("abcd"), sites, "block_02", baseline=mark(name)
    )
    return State(query, None, {"w": torch.full((2, 2), 1 + shift), "projector.w": torch.full((2, 2), 1 - shift)})


def group_of(name):
    return "projector" if name.startswith("projector") else "block_01"


@pytest.fixture(scope="module")
def result():
    base, shifts = state("base"), {10: 0.0, 20: 1e-4, 30: 0.5, 40: 2.0}
    rounded, untrained = state("base (bfloat16)", 1e-3, seed=2), state("untrained", 9.0, seed=3)
    rounding = rounding_of(base.query, [rounded.query])
    steps = [measure_step(base, state(f"sft step {step}", shift), group_of, rounding) for step, shift in shifts.items()]
    runs = {"sft": [{"step": step, "checkpoint": f"sft step {step}"} for step in shifts]}
    return trajectory_result(base, [rounded], untrained, steps, runs)


def test_whether_a_moment_moved_is_one_test_over_all_moments_and_sites(result):
    """Holm over 3 moments with 2 sites each: what equals the base is not tested."""
    p = result.settings["p_moved"]
    assert set(p) == {"sft step 20", "sft step 30", "sft step 40"}
    base = state("base")
    rounding = rounding_of(base.query, [state("base (bfloat16)", 1e-3, seed=2).query])
    alone = {
        (name, site): value
        for name, shift in (("sft step 20", 1e-4), ("sft step 30", 0.5), ("sft step 40", 2.0))
        for site, value in measure_step(base, state(name, shift), group_of, rounding, accuracy=False)
        .settings["p_beyond"][name]
        .items()
    }
    for (name, site), value in zip(alone, holm(list(alone.values())), strict=True):
        assert p[name][site] == value


@pytest.mark.thorough
def test_a_run_that_only_rounds_again_raises_few_false_alarms():
    """12 moments, each another draw of noise of the size of rounding: hardly a run has a first moved step."""
    alarms = 0
    for seed in range(60):
        base = state("base")
        rounding = rounding_of(base.query, [state("base (bfloat16)", 1e-3, seed=1000 + seed).query])
        moments = [state(f"sft step {n}", 1e-3, seed=100 * seed + n) for n in range(12)]
        steps = [measure_step(base, one, group_of, rounding, accuracy=False) for one in moments]
        runs = {"sft": [{"step": n, "checkpoint": one.name} for n, one in enumerate(moments)]}
        found = trajectory_result(base, [], state("untrained", 9.0), steps, runs, accuracy=False)
        alarms += any(has_moved(found, row) for row in found.select(measure="cka", role="value"))
    assert alarms <= 5  # 5 % of 60, and two


def test_motion_that_all_images_share_is_found_although_intervals_overlap():
    """A few images carry most of the distance of rounding and of the run alike; the pairs are apart at every image."""
    generator = np.random.default_rng(5)
    weight = np.exp(generator.normal(size=(N, 1)))  # how far an image goes, wherever it goes
    base = state("base")

    def moved(name, size, seed):
        noise = size * weight * np.random.default_rng(seed).normal(size=(N, WIDTH))
        sites = {site: (x + noise).astype(np.float32) for site, x in base.query.sites.items()}
        return dataclasses.replace(
            base, query=dataclasses.replace(base.query, encoder=name, sites=sites, baseline=mark(name))
        )

    rounded, later = moved("base (bfloat16)", 0.01, 1), moved("sft step 5", 0.035, 1)
    rounding = rounding_of(base.query, [rounded.query])
    step = measure_step(base, later, group_of, rounding, accuracy=False)
    runs = {"sft": [{"step": 5, "checkpoint": "sft step 5"}]}
    found = trajectory_result(base, [rounded], state("untrained", 9.0), [step], runs, accuracy=False)
    [row] = found.select(checkpoint="sft step 5", site="block_02", measure="cka")
    [baseline] = found.select(checkpoint="base (bfloat16)", site="block_02", measure="cka")
    assert has_moved(found, row)
    assert 1 - row.estimate.high < MARGIN * (1 - baseline.estimate.low)  # the unpaired rule would not have seen it


def test_a_step_has_its_distance_its_accuracy_and_its_weights(result) -> None:
    rows = result.select(checkpoint="sft step 30")
    assert [(row.site, row.measure, row.role) for row in rows] == [
        ("block_02", "cka", "value"),
        ("projected", "cka", "value"),
        ("block_02", "top1", "value"),
        ("projected", "top1", "value"),
        ("block_02", "top1", "difference"),
        ("projected", "top1", "difference"),
        ("projector", "relative_change", "value"),
        ("tower", "relative_change", "value"),
        ("projector", "matrix_change", "value"),
        ("tower", "matrix_change", "value"),
        ("projector", "matrices_changed", "value"),
        ("tower", "matrices_changed", "value"),
    ]
    assert rows[-3].estimate.value == rows[-5].estimate.value == pytest.approx(0.5)  # every weight went from 1 to 1.5


def test_equal_features_are_a_distance_of_exactly_zero(result) -> None:
    for site in ("block_02", "projected"):
        [row] = result.select(checkpoint="sft step 10", site=site, measure="cka")
        assert row.estimate == Estimate(1.0, 1.0, 1.0, N, "CKA", "exact")
        assert not has_moved(result, row)


def test_moved_means_beyond_rounding(result) -> None:
    found = {
        row.checkpoint: has_moved(result, row) for row in result.select(site="block_02", measure="cka", role="value")
    }
    assert found == {"sft step 10": False, "sft step 20": False, "sft step 30": True, "sft step 40": True}


def test_the_verdict_says_when_how_far_and_whether_it_sees_better(result) -> None:
    texts = [statement.text for statement in trajectory_verdict(result)]
    assert len(texts) == 5
    assert (
        "the features at block_02 (what the language model reads) had measurably moved by step 30 (not yet at step 20)"
        in texts[0]
    )
    assert "after the projector had measurably moved by step 30" in texts[1]
    assert "by step 40 1 of 1 weight matrices of the tower changed, by 200.0 % in the median" in texts[2]
    assert "sft at step 40 sees worse than base at block_02" in texts[3]
    assert "sft at step 40 sees worse than base after the projector" in texts[4]


def test_every_statement_rests_on_rows_that_are_there(result) -> None:
    for statement in trajectory_verdict(result):
        for reference in statement.evidence:
            wanted = {key: value for key, value in reference.items() if key != "analysis"}
            assert len(result.select(**wanted)) == 1


def test_a_run_that_never_moved_is_said_so(result) -> None:
    runs = {"frozen": result.settings["runs"]["sft"][:1], "slow": result.settings["runs"]["sft"][:2]}
    still = dataclasses.replace(result, settings={**result.settings, "runs": runs})
    texts = [statement.text for statement in trajectory_verdict(still)]
    assert any(
        "frozen: the features at block_02" in text and "equal to those of the base bit for bit" in text
        for text in texts
    )
    assert any(
        "slow: the features at block_02" in text and "did not measurably move at any of 2 moments" in text
        for text in texts
    )


def test_without_classes_the_distance_is_there_all_the_same() -> None:
    base, later = state("base"), state("sft step 5", 1.0)
    baselines = [state("base (bfloat16)", 1e-3), state("base (float32)", 1e-4)], state("untrained", 9.0)
    step = measure_step(base, later, group_of, rounding_of(base.query, [s.query for s in baselines[0]]), accuracy=False)
    runs = {"sft": [{"step": 5, "checkpoint": "sft step 5"}]}
    result = trajectory_result(base, *baselines, [step], runs, accuracy=False)
    assert {row.measure for row in result.rows} == {"cka", "relative_change", "matrix_change", "matrices_changed"}
    assert len(trajectory_verdict(result)) == 3
