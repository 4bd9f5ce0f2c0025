"""Arms over runs: planted differences are found, none is found where there is none."""

import numpy as np
import pytest

from visprobe.analyses.runs.runs import across_runs, runs_verdict
from visprobe.results.result import Estimate, Result, Row

ARMS = {"sft": ["sft-0", "sft-1", "sft-2"], "dpo": ["dpo-0", "dpo-1", "dpo-2"]}


def planted(top1, cka=None):
    def row(name, site, measure, value):
        return Row(name, site, measure, Estimate(value, value, value, 100, "fraction", "exact"))

    rows = [row(name, "block_04", "top1", value) for name, value in top1.items()]
    rows += [row(name, "block_02", "top1", 0.9) for name in top1]  # a site the MLLM does not read
    results = [Result("imagenet", "?", tuple(rows), {"consumed": "block_04"})]
    if cka:
        results.append(
            Result("drift", "?", tuple(row(n, "block_04", "cka", v) for n, v in cka.items()), {"consumed": "block_04"})
        )
    return results


def test_differences_are_means_over_runs():
    top1 = {"base": 0.5, "sft-0": 0.52, "sft-1": 0.53, "sft-2": 0.54, "dpo-0": 0.56, "dpo-1": 0.58, "dpo-2": 0.57}
    result = across_runs(planted(top1), ARMS, "base")
    found = {(row.checkpoint, row.reference): row.estimate for row in result.rows}
    assert found["sft", "base"].value == pytest.approx(0.03)
    assert found["dpo", "base"].value == pytest.approx(0.07)
    assert found["dpo", "sft"].value == pytest.approx(0.04)
    assert found["dpo", "sft"].n == 3
    half = 4.302652729911275 * np.std([0.04, 0.05, 0.03], ddof=1) / np.sqrt(3)  # t quantile of 2 degrees of freedom
    (single,) = [v["runs"] for v in result.settings["values"] if (v["checkpoint"], v["reference"]) == ("dpo", "sft")]
    assert single == pytest.approx([0.04, 0.05, 0.03])
    assert found["dpo", "sft"].low == pytest.approx(0.04 - half)
    assert result.settings["sign_flip"] == [
        {"checkpoint": "dpo", "reference": "sft", "site": "block_04", "measure": "top1", "p": 0.25}
    ]
    assert "no exact test over runs can give p below 0.25" in result.warnings[0]


def test_cka_is_averaged_and_an_untouched_tower_counts_as_one():
    top1 = dict.fromkeys(["base", *ARMS["sft"], *ARMS["dpo"]], 0.5)
    result = across_runs(planted(top1, cka={"sft-0": 0.98, "sft-1": 0.97, "sft-2": 0.99, "dpo-0": 0.99}), ARMS, "base")
    cka = {(r.checkpoint, r.reference): r.estimate.value for r in result.select(measure="cka")}
    assert cka["sft", "base"] == pytest.approx(0.98)
    assert cka["dpo", "base"] == pytest.approx((0.99 + 1 + 1) / 3)


def test_equal_arms_are_rarely_told_apart():
    draws = np.random.default_rng(1).normal(0.5, 0.01, (400, 6))
    apart = 0
    for values in draws:
        top1 = {"base": 0.5, **dict(zip([*ARMS["sft"], *ARMS["dpo"]], values, strict=True))}
        row = across_runs(planted(top1), ARMS, "base").select(checkpoint="dpo", reference="sft")[0]
        apart += not row.estimate.low <= 0 <= row.estimate.high
    assert apart / 400 <= 0.083  # 0.05 plus three standard errors of a share in 400 draws


@pytest.mark.parametrize(
    ("shift", "words"),
    [(0.04, "sees better than"), (-0.04, "sees worse than"), (0.0, "is not measurably different from")],
)
def test_the_words_follow_the_interval(shift, words):
    noise = [0.001, -0.001, 0.0]
    top1 = (
        {"base": 0.5}
        | {f"sft-{i}": 0.5 + noise[i] for i in range(3)}
        | {f"dpo-{i}": 0.5 + shift - noise[i] for i in range(3)}
    )
    statements = runs_verdict(across_runs(planted(top1), ARMS, "base"), "base")
    assert statements[0].text.startswith("In short: over 3 runs per arm, ")
    assert ("no arm sees measurably" in statements[0].text) == (shift == 0)
    texts = [statement.text for statement in statements]
    assert any(f"Over 3 runs, dpo {words} sft at block_04" in text for text in texts)
    assert statements[0].evidence[0]["analysis"] == "runs"
