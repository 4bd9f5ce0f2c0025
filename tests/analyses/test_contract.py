"""Every analysis that compare can run keeps the promises of an analysis; one that breaks them is told which."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.core.contract import check_analysis, planted_inputs
from visprobe.analyses.core.registry import built_in
from visprobe.analyses.drift.drift import DRIFT
from visprobe.analyses.segmentation.config import SegmentationConfig
from visprobe.analyses.segmentation.segment import segment_analysis
from visprobe.demo.scenes import DigitScenes
from visprobe.metrics.segmentation import patch_head
from visprobe.results.result import Estimate, Result, Row


def kept():
    """The built-in analyses but zeroshot: the planted model has no text tower (test_zeroshot.py gives it one)."""
    slow = {"segment", "probe", "robustness", "attributes"}  # they train, or look at many variants of the images
    for analysis in built_in():
        if analysis.name == "segment":
            analysis = segment_analysis(SegmentationConfig(seeds=2))
        if analysis.name != "zeroshot":
            yield pytest.param(analysis, id=analysis.name, marks=[pytest.mark.slow] if analysis.name in slow else [])


@pytest.fixture(autouse=True)
def _short_trainings(monkeypatch):
    """Promises do not depend on how long heads are trained, how many penalties are tried, or how often a scene is
    drawn; time does."""
    monkeypatch.setattr("visprobe.metrics.segmentation.patch_head.LEAST_STEPS", 2)
    monkeypatch.setattr("visprobe.metrics.segmentation.patch_head.ROUNDS", 2)
    monkeypatch.setitem(patch_head.RATES, 0, (1e-2, 1e-1))
    monkeypatch.setattr("visprobe.demo.attributes.probes.CS", (1e-3, 1e-2, 1e-1))
    monkeypatch.setattr("visprobe.analyses.probes.classes.CS", (1e-3, 1e-2, 1e-1))
    monkeypatch.setattr(DigitScenes, "scene", cache(DigitScenes.scene))


@pytest.mark.parametrize("analysis", list(kept()))
def test_built_in_analyses_keep_the_contract(analysis):
    check_analysis(analysis)


def answer(inputs, value, **settings):
    return Result(
        "mine", "?", (Row("sft", "block_01", "m", Estimate(value, value, value, 64, "x", "exact")),), settings
    )


def mine(run, **changed):
    fields = {"name": "mine", "question": "Is it mine?", "needs": lambda encoder: ["block_01"], "run": run}
    return Analysis(**{**fields, **changed})


def writing(inputs):
    np.add(inputs.others[0].sites["block_01"], 1, out=inputs.others[0].sites["block_01"])
    return answer(inputs, 1.0)


@pytest.mark.parametrize(
    ("analysis", "words"),
    [
        (mine(lambda inputs: answer(inputs, 1.0), question="Mine"), "question mark"),
        (mine(writing), "changes its inputs"),
        (mine(lambda inputs: answer(inputs, np.random.default_rng().random())), "same inputs and seed"),
        (mine(lambda inputs: answer(inputs, np.float64(1.0))), "plain"),
        (mine(lambda inputs: answer(inputs, 1.0), name="yours"), "called mine"),
        (mine(lambda inputs: answer(inputs, 1.0)), "NaN in the features raises nothing"),
        (mine(lambda inputs: answer(inputs, float(inputs.others[0].sites["block_01"][0, 0]))), "by place"),
        (mine(lambda inputs: replace(DRIFT.run(inputs), rows=(Row("x", "s", "m", Estimate(2, 0, 1, 0, "x", "e")),))),
         "no checkpoint that it was given"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_said(analysis, words):
    with pytest.raises(AssertionError, match=words):
        check_analysis(analysis)


def test_a_table_goes_through_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    result = DRIFT.run(planted_inputs(DRIFT))
    parquet.write_table(pyarrow.Table.from_pylist(result.to_table()), tmp_path / "rows.parquet")
    read = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert read == result.to_table()
    assert read[0]["value"] == result.rows[0].estimate.value
    assert set(read[0]) == {"analysis", "checkpoint", "site", "measure", "reference", "role", "baseline", "value",
                            "low", "high", "n", "unit", "method"}  # fmt: skip
