"""The verdict in one sentence follows the same rules as the verdict."""

import pytest
from baseline_marks import kind

from visprobe.analyses.core.verdict import SCOPE, headline
from visprobe.results.result import Estimate, Result, Row


def cka(name, value, half=0.001, role="value"):
    return Row(
        name,
        "block_04",
        "cka",
        Estimate(value, value - half, value + half, 100, "CKA", "jackknife"),
        "base",
        role,
        kind(name, role),
    )


def difference(one, two, value, half=0.01):
    estimate = Estimate(value, value - half, value + half, 100, "fraction", "Newcombe paired 95 %")
    return Row(one, "block_04", "top1", estimate, two, "difference")


def planted(drift, seeing=(), identical=()):
    baseline = cka("base (bfloat16)", 0.9999, 0.00001, "baseline")
    p = {row.checkpoint: {"block_04": 0.001 if row.estimate.value < 0.999 else 1.0} for row in drift}
    settings = {"consumed": "block_04", "identical": list(identical), "p_moved": p}
    return [
        Result("drift", "?", (*drift, baseline), settings),
        Result("imagenet", "?", tuple(seeing), {"consumed": "block_04"}),
    ]


@pytest.mark.parametrize(
    ("results", "text"),
    [
        (
            planted(
                [cka("sft", 0.97), cka("dpo", 0.98)],
                [difference("sft", "base", 0.0), difference("dpo", "base", 0.02), difference("dpo", "sft", 0.005)],
            ),
            "In short: sft and dpo moved what the language model reads; dpo (+2.0 points [+1.0, +3.0]) sees better "
            "than base, sft is not measurably different from base, sft and dpo do not differ measurably.",
        ),
        (
            planted([cka("sft", 0.9999)], [difference("sft", "base", -0.03)], identical=["frozen"]),
            "In short: sft did not measurably move what the language model reads, frozen left the tower as it was "
            "(not trained or not saved); "
            "sft (−3.0 points [−4.0, −2.0]) sees worse than base.",
        ),
        (
            planted([cka("sft", 0.9), cka("dpo", 0.9)], [difference("dpo", "sft", 0.05)]),
            "In short: sft and dpo moved what the language model reads; dpo sees better than sft (+5.0 points [+4.0, "
            "+6.0]).",
        ),
    ],
)
def test_one_sentence(results, text):
    (statement,) = headline(results, "base")
    assert statement.text == f"{text} {SCOPE}"
    drift, imagenet = results
    for reference in statement.evidence:
        result = {"drift": drift, "imagenet": imagenet}[reference["analysis"]]
        assert result.select(**{key: value for key, value in reference.items() if key != "analysis"})


def test_answers_and_a_measurement_without_power_are_in_the_sentence():
    def share(name, value, role="value"):
        return Row(
            name,
            "block_04",
            "top1",
            Estimate(value, value - 0.02, value + 0.02, 100, "fraction", "x"),
            None,
            role,
            kind(name, role),
        )

    drift, seeing = planted(
        [cka("sft", 0.9)], [share("base", 0.12), share("sft", 0.11), share("untrained", 0.1, "baseline")]
    )
    seeing.settings["against_baselines"] = [
        {"checkpoint": name, "reference": "untrained", "site": "block_04", "measure": "top1", "value": 0.01,
         "low": -0.01, "high": 0.03}
        for name in ("base", "sft")
    ]  # fmt: skip
    estimate = Estimate(-0.02, -0.03, -0.01, 100, "fraction", "t")
    rows = tuple(Row(n, "language_model", "accuracy/all", estimate, "base", "difference") for n in ("sft", "dpo"))
    [said] = headline([drift, seeing, Result("answers", "?", rows)], "base")
    assert "none of them clearly tells these classes apart better than an untrained tower" in said.text
    assert (
        "; sft (−2.0 points [−3.0, −1.0]) answers worse than base." in said.text
    )  # dpo has no drift: not measured here
    equal = tuple(Row(*one, Estimate(0, -0.01, 0.01, 9, "fraction", "t"), "base", "difference")
                  for one in [("sft", "language_model", "accuracy/all")])  # fmt: skip
    [said] = headline([drift, seeing, Result("answers", "?", equal)], "base")
    assert "; sft does not answer measurably differently from base." in said.text
    able = planted([cka("sft", 0.9)], [share("base", 0.5), share("sft", 0.11), share("untrained", 0.1, "baseline")])
    assert "untrained" not in headline(able, "base")[0].text


def test_nothing_measured_nothing_said():
    assert headline([], "base") == []
