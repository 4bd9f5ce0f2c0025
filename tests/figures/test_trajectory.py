"""The trajectory figure: one line per run, every moment where its step is, markers that say what is measured."""

import dataclasses

import pytest
from matplotlib.figure import Figure

from visprobe.analyses.runs.trajectory_figure import caption, draw
from visprobe.figures.save import svg_text
from visprobe.figures.style import checkpoint_styles

RUNS = ["sft", "dpo", "grpo"]
LOOK = checkpoint_styles(["base", *RUNS])


@pytest.fixture
def result(planted):
    return planted()["trajectory"]


def line_of(axes, run):
    [line] = [each for each in axes.lines if each.get_color() == LOOK[run].colour and len(each.get_xdata()) > 1
              and each.get_transform() == axes.transData]  # fmt: skip
    return list(line.get_xdata()), list(line.get_ydata())


def markers_of(axes, run):
    """Step to whether the marker there is filled."""
    colour = LOOK[run].colour
    points = [line for line in axes.lines if line.get_color() == colour and len(line.get_xdata()) == 1]
    return {int(point.get_xdata()[0]): point.get_markerfacecolor() == colour for point in points}


@pytest.mark.parametrize("run", RUNS)
def test_distance_and_accuracy_are_the_rows_at_their_steps(result, run) -> None:
    upper, _, lower, _ = draw(result).axes
    names = [moment["checkpoint"] for moment in result.settings["runs"][run]]
    at = {"site": "block_06", "role": "value"}
    cka = [result.select(checkpoint=name, measure="cka", **at)[0].estimate.value for name in names]
    top1 = [result.select(checkpoint=name, measure="top1", **at)[0].estimate.value for name in names]
    assert line_of(upper, run) == ([10, 20, 30], [1 - value for value in cka])
    assert line_of(lower, run) == ([0, 10, 20, 30], [0.6, *top1])  # training starts from the base


def test_markers_are_filled_where_the_rows_say_that_something_is_measured(result) -> None:
    upper, _, lower, _ = draw(result).axes
    # Planted: a tenth of the rounding baseline, the baseline itself, ten times the baseline.
    assert markers_of(upper, "sft") == {10: False, 20: False, 30: True}
    # Planted: 0, 1 and 2 points, each with 1.2 points of half width.
    assert markers_of(lower, "dpo") == {10: False, 20: False, 30: True}


@pytest.mark.thorough
def test_a_marker_is_filled_by_the_rule_of_the_verdict(result) -> None:
    p = {**result.settings["p_moved"], "sft step 20": {"block_06": 0.05}, "sft step 30": {"block_06": 0.06}}
    upper, *_ = draw(dataclasses.replace(result, settings={**result.settings, "p_moved": p})).axes
    assert markers_of(upper, "sft") == {10: False, 20: True, 30: False}


@pytest.mark.thorough
def test_one_panel_per_site_and_measure_on_shared_scales(result) -> None:
    panels = draw(result).axes
    assert [axes.get_title(loc="left") for axes in panels[:2]] == ["block_06 (read by the LLM)", "after the projector"]
    assert [axes.get_yscale() for axes in panels] == ["log", "log", "linear", "linear"]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[2].get_ylim() == panels[3].get_ylim()


def test_the_baseline_and_the_base_are_drawn(result) -> None:
    upper, _, lower, _ = draw(result).axes
    assert [y for line in upper.lines if line.get_linestyle() == "--" for y in line.get_ydata()][:2] == [
        pytest.approx(2e-4)
    ] * 2
    assert [0.6, 0.6] in [list(line.get_ydata()) for line in lower.lines]


def test_features_that_equal_the_base_stand_on_zero(result) -> None:
    first = {moments[0]["checkpoint"] for moments in result.settings["runs"].values()}
    exact = [
        dataclasses.replace(row, estimate=dataclasses.replace(row.estimate, value=1.0, low=1.0, high=1.0))
        if row.measure == "cka" and row.checkpoint in first
        else row
        for row in result.rows
    ]
    upper = draw(dataclasses.replace(result, rows=tuple(exact))).axes[0]
    _, heights = line_of(upper, "sft")
    assert heights[0] == upper.get_yticks()[0]
    assert "0" in [label.get_text() for label in upper.get_yticklabels()]
    assert markers_of(upper, "sft")[10] is False


def test_without_classes_there_is_no_accuracy_panel(result) -> None:
    rows = tuple(row for row in result.rows if row.measure != "top1")
    figure = draw(dataclasses.replace(result, rows=rows))
    assert isinstance(figure, Figure) and len(figure.axes) == 2
    assert "<svg" in svg_text(figure)


def test_the_caption_says_what_the_markers_mean(result) -> None:
    text = caption(result)
    assert "n = 1,000 images" in text
    assert "Filled" in text and "hollow" in text
