"""Conditions that make a run fail: what they are about, and that noise alone does not trip them."""

import numpy as np
import pytest
from baseline_marks import kind

from visprobe.analyses.core.gates import Gate, judge, read_condition
from visprobe.errors import UsageError
from visprobe.metrics.intervals.proportions import wilson
from visprobe.results.result import Estimate, Result, Row


def row(checkpoint, site, measure, value, half, role="value", reference=None):
    estimate = Estimate(value, value - half, value + half, 100, "fraction", "x")
    return Row(checkpoint, site, measure, estimate, reference, role, kind(checkpoint, role))


DRIFT = Result(
    "drift", "moved?",
    (row("sft", "block_02", "cka", 0.5, 0.01, reference="base"), row("sft", "block_03", "cka", 0.98, 0.01),
     row("sft", "projected", "cka", 0.9, 0.01), row("untrained", "block_03", "cka", 0.1, 0.01, "baseline"),
     row("dpo", "block_03", "cka", 0.9, 0.2)),
    {"consumed": "block_03", "base": "base"},
)  # fmt: skip
SIGHT = Result(
    "imagenet", "better?",
    (row("sft", "block_03", "top1", 0.60, 0.02), row("sft", "block_03", "top1", -0.05, 0.02, "difference", "base"),
     row("dpo", "block_03", "top1", -0.2, 0.02, "difference", "sft")),
    {"consumed": "block_03", "base": "base"},
)  # fmt: skip


def tripped(text, results=(DRIFT, SIGHT)):
    return [(gate.checkpoint, gate.site) for gate in judge([read_condition(text)], results) if gate.tripped]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("drift>0.005", [("sft", "block_03")]),  # where the language model reads; 1 - 0.98 is 0.02
        ("drift > .03", []),
        ("drift@any>0.05", [("sft", "block_02"), ("sft", "projected")]),
        ("cka@projected<0.95", [("sft", "projected")]),
        ("cka@consumed<0.995", [("sft", "block_03")]),
        ("cka<=0.97", []),  # 0.98 is not, and of 0.9 +- 0.2 the interval reaches over it
        ("top1>=58%", [("sft", "block_03")]),
        ("top1-base<-1%", [("sft", "block_03")]),  # and not the difference of dpo to sft
        ("top1-base<-6e-2", []),
        ("top1 -base @ block_03 < \N{MINUS SIGN}1\N{NARROW NO-BREAK SPACE}%", [("sft", "block_03")]),  # from our tables
    ],
)
def test_a_condition_is_about_what_it_says(text, expected):
    assert tripped(text) == expected


@pytest.mark.parametrize(
    ("measure", "site"),
    [("share_within_1e-05", "tower"), ("image_change/95 % quantile", "block_03"), ("gini", "gradient-norm@block_04"),
     ("kept_consumed/mean of corruptions", "all heads"), ("accuracy/all", "x"), ("text_knn/org/bert-base", "x")],
)  # fmt: skip
def test_every_number_can_be_named(measure, site):
    odd = Result("a", "?", (row("sft", site, measure, 0.6, 0.1), row("sft", site, measure, 0.3, 0.1, "difference")))
    for text in (f"{measure}>40%", f"{measure}@{site}>0.4"):
        assert tripped(text, [odd]) == [("sft", site)]
    assert tripped(f"{measure}-base>0.1", [odd]) == [("sft", site)]
    assert tripped(f"{measure}-base>0.4", [odd]) == []


def test_parts_that_are_exchanged_are_no_sites():
    rows = (row("put in", "block_03", "cka_consumed", 1, 0), row("put in", "block_02", "cka_consumed", 0.5, 0.1))
    assert tripped("cka_consumed<0.9", [Result("swap", "?", rows, {"consumed": "block_03"})]) == [
        ("put in", "block_02")
    ]


def test_one_number_of_two_analyses_is_one_outcome():
    assert len(judge([read_condition("top1>0.1")], [SIGHT, SIGHT])) == 1


def test_a_forgotten_percent_sign_is_said():
    with pytest.raises(UsageError, match="fraction of 1") as refused:
        judge([read_condition("top1-base<-2")], [DRIFT, SIGHT])
    assert "<-2% or <-0.02" in refused.value.hint


def test_drift_is_one_minus_cka_with_its_interval():
    gate, other = judge([read_condition("drift>0.025")], [DRIFT])
    assert gate == Gate("drift>0.025", "sft", "block_03", *(pytest.approx(x) for x in (0.02, 0.01, 0.03)), False, False)
    assert other.beyond and not other.tripped  # dpo: 0.1, and the interval reaches to -0.1


@pytest.mark.parametrize(
    "text", ["drift", "drift=0.1", ">0.1", "drift>", "drift>x", "drift>0.1>0.2", "-base<1", "top1@<1", "top1<0,5", ""]
)
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(UsageError, match="is no condition"):
        read_condition(text)


def test_an_encoder_that_did_not_move_has_no_drift():
    same = Result("drift", "?", (), {"consumed": "block_03", "identical": ["frozen"]})
    assert [(g.value, g.tripped) for g in judge([read_condition("drift>0.01")], [same])] == [(0, False)]
    assert judge([read_condition("cka@projected>0.5")], [same])[0].tripped
    beside = Result("drift", "?", DRIFT.rows, {**DRIFT.settings, "identical": ["frozen"]})
    assert tripped("drift<0.001", [beside]) == [("frozen", "block_03")]
    with pytest.raises(UsageError, match="no such number"):
        judge([read_condition("drift@projectd>0.5")], [beside])


def test_what_was_not_measured_is_refused_with_what_was():
    with pytest.raises(UsageError, match="no such number") as refused:
        judge([read_condition("accuracy>0.1")], [DRIFT, SIGHT])
    assert "cka, top1, drift" in refused.value.hint


def test_a_checkpoint_at_the_threshold_trips_rarely():
    """In truth exactly 60 %: "below 60 %" trips if the interval lies below, in 2.5 % of samples (500: 0.4 to 4.6)."""
    rng, condition = np.random.default_rng(0), read_condition("top1<0.6")
    hits = 0
    for _ in range(500):
        low, high = wilson(int(count := rng.binomial(1000, 0.6)), 1000)
        one = Estimate(count / 1000, low, high, 1000, "fraction", "Wilson 95 %")
        hits += judge([condition], [Result("imagenet", "?", (Row("sft", "x", "top1", one),))])[0].tripped
    assert 0 < hits <= 23
