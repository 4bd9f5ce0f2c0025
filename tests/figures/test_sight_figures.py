"""Figures of zero-shot and alignment, and what keeps their names apart."""

import itertools
from dataclasses import replace

import pytest

from visprobe.analyses.accuracy import zeroshot_figure as zeroshot
from visprobe.analyses.language import align_figure as align
from visprobe.analyses.robustness import robustness_figure as robustness
from visprobe.demo.attributes import figure as attributes
from visprobe.figures.forest import _sides
from visprobe.figures.legend import legend_columns
from visprobe.figures.style import TWO_COLUMNS, checkpoint_styles, paper_style

NAMES = ("base", "sft", "dpo", "grpo")


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


def test_zero_shot_says_whose_head_and_draws_every_number(planted):
    result = planted()["zeroshot"]
    figure = zeroshot.draw(result)
    assert {"Own head", "Head of so400m", "untrained", "chance"} <= set(texts(figure))
    left, right = figure.axes
    for name, axes, rows in (
        ("sft", left, result.select(checkpoint="sft", measure="zeroshot_top1", role="value")),
        ("dpo", right, result.select(checkpoint="dpo", measure="zeroshot_top1", role="difference")),
    ):
        colour = checkpoint_styles(NAMES)[name].colour
        drawn = [tuple(line.get_xdata()) for line in axes.lines if line.get_color() == colour]
        [row] = rows
        assert (row.estimate.low, row.estimate.high) in drawn and (row.estimate.value,) in drawn
    assert "borrowed head" in zeroshot.caption(result)
    own = replace(result, rows=tuple(row for row in result.rows if row.site == "embedding"))
    assert len(zeroshot.draw(own).axes) == 1 and zeroshot.draw(own).get_figwidth() < TWO_COLUMNS / 2
    assert "borrowed" not in zeroshot.caption(own)


def test_alignment_names_layer_and_place(planted):
    shown = texts(align.draw(planted()["align"]))
    assert {"lm: middle layer, read by the LLM", "lm: largest over sites and layers"} <= set(shown)


@pytest.mark.parametrize("places", [(0.04, 0.5), (0.3, 0.4), (0.5, 0.35), (0.02,), (0.2, 0.2), (0.1, 0.9)])
def test_names_of_baselines_meet_neither_each_other_nor_the_edge(places):
    sides = _sides(places)
    span = {"left": (0.0, 0.24), "right": (-0.24, 0.0), "center": (-0.12, 0.12)}
    ends = [(place + span[side][0], place + span[side][1]) for place, side in zip(places, sides, strict=True)]
    if len(set(places)) > 1:
        assert all(a[1] <= b[0] or b[1] <= a[0] for a, b in itertools.combinations(ends, 2))
    assert ends[0][0] >= -1e-9 or places[0] > 0.1


@pytest.mark.thorough
@pytest.mark.parametrize("draw", [attributes.draw, robustness.draw])
def test_a_legend_of_long_names_stays_on_the_page(planted, draw):
    names = tuple(f"a checkpoint whose name is long, number {n}" for n in range(3))
    with paper_style():
        figure = draw(planted(names)["attributes" if draw is attributes.draw else "robustness"])
        figure.canvas.draw()
        [legend] = figure.legends
        box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    assert legend_columns(["a"] * 9, TWO_COLUMNS) == 6 and legend_columns(["a" * 400], TWO_COLUMNS) == 1
