"""The drawn figures: every number where it belongs, nothing drawn that is not a row."""

import dataclasses
import itertools

import pytest
from figure_specs import FIGURES
from matplotlib.figure import Figure

from visprobe.analyses.accuracy import answers_figure as answers
from visprobe.analyses.accuracy import imagenet_figure as prototype_accuracy
from visprobe.analyses.drift import drift_figure as representation_drift
from visprobe.analyses.weights import weights_figure as weight_drift
from visprobe.figures.save import svg_text
from visprobe.figures.style import checkpoint_styles
from visprobe.results.result import Estimate, Result, Row

NAMES = ["base", "sft", "dpo", "grpo"]
SINGLE_MAPS = ("maps", "map_differences", "map_contrast", *(f"map_strip_{n}" for n in range(1, 5)))


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")) if t.get_text()]


def heights(axes, colour: str) -> list[float]:
    """All y values of lines of `colour` in data coordinates, in drawing order."""
    lines = [line for line in axes.lines if line.get_color() == colour and line.get_transform() == axes.transData]
    return [float(y) for line in lines for y in line.get_ydata()]


@pytest.mark.thorough
def test_drift_draws_one_minus_cka_at_every_site(planted) -> None:
    result = planted()["drift"]
    axes = representation_drift.draw(result).axes[0]
    wanted = [1 - row.estimate.value for row in result.select(checkpoint="sft", role="value")]
    drawn = heights(axes, checkpoint_styles(NAMES)["sft"].colour)
    assert drawn[1:] == wanted[1:]
    assert wanted[0] == 0 and drawn[0] == axes.get_yticks()[0]  # on the "0" tick
    assert axes.get_yscale() == "log"


def test_rounding_of_equal_features_is_drawn_as_zero(planted) -> None:
    result = planted()["drift"]
    almost = Estimate(1 - 1e-13, 1 - 2e-13, 1.0, 1000, "CKA", "jackknife")
    rows = tuple(dataclasses.replace(r, estimate=almost) if r.site == "block_00" else r for r in result.rows)
    axes = representation_drift.draw(dataclasses.replace(result, rows=rows)).axes[0]
    assert axes.get_ylim()[0] > 1e-8


def test_drift_names_its_baselines_and_the_consumed_site(planted) -> None:
    shown = texts(representation_drift.draw(planted()["drift"]))
    assert {"untrained", "base (bfloat16)", "sft", "dpo", "grpo", "read by\nthe LLM"} <= set(shown)


@pytest.mark.sample(1)
@pytest.mark.parametrize("analysis", ["drift", "weights"])
def test_an_identical_tower_is_said_and_not_drawn_as_zero(planted, analysis: str) -> None:
    result = planted(identical=("dpo",))[analysis]
    figure = FIGURES[analysis].draw(result, NAMES)
    assert "dpo: tower identical to the base (not trained or not saved)" in texts(figure)
    drawn = heights(figure.axes[0], checkpoint_styles(NAMES)["dpo"].colour)
    assert len(drawn) == 1 and drawn[0] > 1e-4  # the projector alone, which did move


def test_a_tower_equal_to_the_rounded_base_is_said_and_not_drawn_as_zero(planted) -> None:
    result = planted(identical=("dpo",))["weights"]
    settings = {**result.settings, "identical": [], "rounded": {"dpo": "bfloat16"}}
    figure = FIGURES["weights"].draw(dataclasses.replace(result, settings=settings), NAMES)
    assert "dpo: tower equal to the base rounded to bfloat16" in texts(figure)
    assert len(heights(figure.axes[0], checkpoint_styles(NAMES)["dpo"].colour)) == 1


@pytest.mark.thorough
def test_all_towers_identical_still_makes_a_figure(planted) -> None:
    for analysis in ("drift", "weights"):
        result = planted(("base", "sft"), identical=("sft",))[analysis]
        assert "<svg" in svg_text(FIGURES[analysis].draw(result, ()))


def test_weights_show_change_above_and_equality_below(planted) -> None:
    result = planted()["weights"]
    upper, lower = weight_drift.draw(result).axes
    colour = checkpoint_styles(NAMES)["grpo"].colour
    change = [r.estimate.value for r in result.select(checkpoint="grpo", measure="matrix_change")]
    equal = [r.estimate.value for r in result.select(checkpoint="grpo", measure="share_equal")]
    assert [y for y in heights(upper, colour) if y in change] == [c for c in change if c > 0]
    assert heights(lower, colour) == equal


def test_accuracy_draws_values_intervals_baseline_and_chance(planted) -> None:
    result = planted()["imagenet"]
    left = prototype_accuracy.draw(result).axes[0]
    top1 = [row.estimate for row in result.select(measure="top1", role="value")]
    points = [line.get_xdata()[0] for line in left.lines if len(line.get_xdata()) == 1]
    bars = {
        tuple(line.get_xdata()) for line in left.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2
    }
    assert points == [e.value for e in top1]
    assert bars == {(e.low, e.high) for e in top1}
    dashed = {line.get_xdata()[0] for line in left.lines if line.get_linestyle() == "--"}
    assert dashed == {row.estimate.value for row in result.select(measure="top1", role="baseline")}
    assert [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == ":"] == [0.1]


def test_accuracy_pairs_only_with_the_base(planted) -> None:
    result = planted()["imagenet"]
    right = prototype_accuracy.draw(result).axes[1]
    points = [line.get_xdata()[0] for line in right.lines if len(line.get_xdata()) == 1]
    assert points == [row.estimate.value for row in result.select(role="difference", reference="base")]
    low, high = right.get_xlim()
    assert low == -high


def test_accuracy_shows_the_two_sites_that_matter(planted) -> None:
    result = planted()["imagenet"]
    extra = dataclasses.replace(result.select(measure="top1", role="value")[0], site="block_02")
    shown = texts(prototype_accuracy.draw(dataclasses.replace(result, rows=(extra, *result.rows))))
    assert "block_06 (read by the LLM)" in shown and "after the projector" in shown and "block_02" not in shown


def test_answers_have_a_section_per_group_all_first(planted) -> None:
    figure = answers.draw(planted()["answers"])
    shown = texts(figure)
    assert len(figure.axes) == 1  # no differences in this result, so no second panel
    assert shown.count("blind") == 3 and {"all", "count", "where"} <= set(shown)


@pytest.mark.sample(1)
@pytest.mark.parametrize("analysis", list(FIGURES))
def test_captions_state_n_and_method(planted, analysis: str) -> None:
    result = planted()[analysis]
    caption = FIGURES[analysis].caption(result)
    said = {"weights": "Exact", "spectrum": "Exact", **dict.fromkeys(SINGLE_MAPS, "no interval")}
    assert said.get(analysis, "95 %") in caption and "n = " in caption and "Baseline" in caption


@pytest.mark.thorough
@pytest.mark.parametrize("analysis", list(FIGURES))
def test_the_same_result_gives_the_same_bytes(planted, analysis: str) -> None:
    result = planted()[analysis]
    first, second = (svg_text(FIGURES[analysis].draw(result, NAMES)) for _ in range(2))
    assert first == second and "<dc:date>" not in first and "<text" in first


@pytest.mark.parametrize("analysis", list(FIGURES))
def test_hostile_names_are_drawn_as_text(planted, analysis: str) -> None:
    names = ("$\\frac{$", "<script>alert(1)</script>", "\x1b[31m\u202e", "猫" * 85)
    svg = svg_text(FIGURES[analysis].draw(planted(names)[analysis], names))
    assert "<script" not in svg and "\x1b" not in svg and "\u202e" not in svg
    assert "\\x1b[31m\\u202e" in svg


def test_a_figure_of_one_checkpoint_has_no_second_panel() -> None:
    estimate = Estimate(0.5, 0.4, 0.6, 100, "fraction", "Wilson 95 %")
    result = Result("imagenet", "?", (Row("base", "final_norm", "top1", estimate),))
    assert len(prototype_accuracy.draw(result).axes) == 1


def test_drawing_leaves_matplotlib_as_it_was(planted) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    representation_drift.draw(planted()["drift"])
    assert dict(mpl.rcParams) == before


def test_many_blocks_keep_their_labels_apart(planted) -> None:
    figure = representation_drift.draw(planted(blocks=40)["drift"])
    svg_text(figure)
    axes = figure.axes[0]
    boxes = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
    gaps = [b.x0 - a.x1 for a, b in itertools.pairwise(boxes)]
    assert min(gaps) > 0
