"""Conditions that make a run fail: what they are about, and that noise alone does not trip them."""

import numpy as np
import pytest

from visprobe.analyses.gates import Gate, judge, read_condition
from visprobe.analyses.result import Estimate, Result, Row
from visprobe.errors import UsageError
from visprobe.metrics.intervals import wilson


def row(checkpoint, site, measure, value, half, role="value", reference=None):
    return Row(checkpoint, site, measure, Estimate(value, value - half, value + half, 100, "", "x"), reference, role)


DRIFT = Result(
    "drift", "moved?",
    (row("sft", "block_02", "cka", 0.5, 0.01, reference="base"), row("sft", "block_03", "cka", 0.98, 0.01),
     row("sft", "projected", "cka", 0.9, 0.01), row("untrained", "block_03", "cka", 0.1, 0.01, "floor"),
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
    ],
)
def test_a_condition_is_about_what_it_says(text, expected):
    assert tripped(text) == expected


def test_drift_is_one_minus_cka_with_its_interval():
    gate, other = judge([read_condition("drift>0.025")], [DRIFT])
    assert gate == Gate("drift>0.025", "sft", "block_03", *(pytest.approx(x) for x in (0.02, 0.01, 0.03)), False, False)
    assert other.beyond and not other.tripped  # dpo: 0.1, and the interval reaches to -0.1


@pytest.mark.parametrize(
    "text", ["drift", "drift=0.1", ">0.1", "drift>", "drift>x", "drift>0.1>0.2", "top1 -base<1", ""]
)
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(UsageError, match="is no condition"):
        read_condition(text)


def test_an_encoder_that_did_not_move_has_no_drift():
    same = Result("drift", "?", (), {"consumed": "block_03", "identical": ["frozen"]})
    assert [(g.value, g.tripped) for g in judge([read_condition("drift>0.01")], [same])] == [(0, False)]
    assert judge([read_condition("cka@projected>0.5")], [same])[0].tripped


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
