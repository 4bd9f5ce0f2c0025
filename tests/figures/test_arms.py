"""The figure of arms over runs shows what the result holds, and runs of one arm look alike."""

import pytest

from visprobe.analyses.runs.runs import across_runs
from visprobe.analyses.runs.runs_figure import caption, draw
from visprobe.figures.style import checkpoint_styles
from visprobe.results.result import Estimate, Result, Row

ARMS = {"sft": ["sft-seed0", "sft-seed1", "sft-seed2"], "dpo": ["dpo-seed0", "dpo-seed1", "dpo-seed2"]}


@pytest.fixture
def result():
    top1 = dict(zip(["base", *ARMS["sft"], *ARMS["dpo"]], [0.5, 0.51, 0.52, 0.53, 0.55, 0.54, 0.56], strict=True))
    rows = [Row(n, "block_04", "top1", Estimate(v, v, v, 100, "fraction", "exact")) for n, v in top1.items()]
    return across_runs([Result("imagenet", "?", tuple(rows), {"consumed": "block_04"})], ARMS, "base")


def test_every_comparison_has_its_mean_interval_and_runs(result):
    figure = draw(result)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sft − base", "dpo − base", "dpo − sft"]
    lines = [line.get_xdata() for line in axes.lines]
    for row, runs in zip(result.rows, ([0.01, 0.02, 0.03], [0.05, 0.04, 0.06], [0.04, 0.02, 0.03]), strict=True):
        assert any(len(x) == 3 and list(x) == pytest.approx(runs) for x in lines)
        assert any(list(x) == [row.estimate.value] for x in lines)
        assert any(list(x) == [row.estimate.low, row.estimate.high] for x in lines)


def test_the_caption_says_what_n_is(result):
    assert "n = 3 runs per arm" in caption(result)


def test_runs_of_an_arm_look_like_the_arm():
    look = checkpoint_styles(["base", "sft-seed0", "sft-seed1", "dpo-seed0", "sft", "dpo"])
    assert look["sft-seed0"] == look["sft-seed1"] == look["sft"]
    assert len({look["base"], look["sft"], look["dpo"]}) == 3
