"""Figures of attribution scores and faithfulness: every number of a result in its place, beside its baselines."""

from dataclasses import replace

import numpy as np
import pytest
from test_attribution_maps import overlapping

from visprobe.attribution.evidence.faithful import curve_rows, faithfulness
from visprobe.attribution.evidence.faithfulness import Curves
from visprobe.attribution.figures import curves as attribution_curves
from visprobe.attribution.figures import scores as attribution_scores
from visprobe.errors import DataError
from visprobe.figures.save import svg_text
from visprobe.figures.style import checkpoint_styles
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import Scale
from visprobe.results.result import Estimate, Result, Row

MEASURES = ("entropy", "gini", "border_mass", "pointing", "mass_inside", "rank_correlation")
LONG = [f"llava-1.5-7b-instruct-number{i}" for i in range(8)]


def planted_scores(names=("base", "sft", "dpo"), sites=("gradcam@block_04", "occlusion@pixels")) -> Result:
    draws, rows, tests = np.random.default_rng(0), [], []
    for site in sites:
        for measure in MEASURES:
            for name in (*names, "centre", "randomised", "uniform"):
                value = draws.uniform(0.2, 0.8)
                estimate = Estimate(value, value - 0.1, value + 0.1, 40, "share", "t over images 95 %")
                rows.append(
                    Row(
                        name,
                        site,
                        measure,
                        estimate,
                        role="value" if name in names else "baseline",
                        baseline=None if name in names else "control",
                    )
                )
            for number, name in enumerate(names[1:]):
                estimate = Estimate(0.1 * number, -0.05, 0.3, 40, "share", "t over images 95 %")
                rows.append(Row(name, site, measure, estimate, names[0], "difference"))
                rows.append(Row(name, site, measure, replace(estimate, value=0.29), "centre", "difference"))
                tests.append({"checkpoint": name, "reference": names[0], "site": site, "measure": measure,
                              "p": 0.01, "p_holm": 0.01 if number else 0.5})  # fmt: skip
    return Result("attribution", "?", tuple(rows), {"base": names[0], "sites": list(sites), "tests": tests})


def points(axes, colour: str) -> list:
    return [line for line in axes.lines if line.get_color() == colour and len(line.get_xdata()) == 1]


def test_every_value_interval_and_baseline_is_drawn_and_differences_are_to_the_base() -> None:
    result = planted_scores()
    figure, colour = attribution_scores.draw(result), checkpoint_styles(["base", "sft", "dpo"])["dpo"].colour
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    mass = panels["Mass in the region"]
    rows = result.select(measure="mass_inside", checkpoint="dpo", role="value")
    assert [line.get_xdata()[0] for line in points(mass, colour)] == [row.estimate.value for row in rows]
    spans = [
        tuple(line.get_xdata()) for line in mass.lines if line.get_color() == colour and len(line.get_xdata()) == 2
    ]
    assert spans == [(row.estimate.low, row.estimate.high) for row in rows]
    dashed = {line.get_xdata()[0] for line in mass.lines if line.get_linestyle() == "--"}
    baselines = result.select(measure="mass_inside", role="baseline", checkpoint="randomised")
    assert dashed == {row.estimate.value for row in baselines}
    below = figure.axes[3]
    assert [line.get_xdata()[0] for line in points(below, colour)] == [0.1, 0.1]  # and not 0.29, to the centre
    assert below.get_xlim()[0] == -below.get_xlim()[1]


def test_a_difference_is_filled_where_it_holds_after_holm() -> None:
    look = checkpoint_styles(["base", "sft", "dpo"])
    below = attribution_scores.draw(planted_scores()).axes[3]
    faces = {name: {line.get_markerfacecolor() for line in points(below, look[name].colour)} for name in ("sft", "dpo")}
    assert faces == {"sft": {"white"}, "dpo": {look["dpo"].colour}}


@pytest.mark.thorough
@pytest.mark.parametrize(("names", "sites"), [(("base",), 5), (("base", "sft"), 1), (tuple(LONG), 3)])
def test_scores_fit_a_page_without_overlaps_and_say_what_is_left_out(names, sites: int) -> None:
    result = planted_scores(names, [f"integrated-gradients-{i}@block_{i:02d}" for i in range(sites)])
    figure = attribution_scores.draw(result)
    assert overlapping(figure) == [] and figure.get_figheight() <= 9.0
    said = attribution_scores.caption(result)
    assert "n = 40 images; intervals: t over images 95 %" in said
    assert ("methods and sites are shown" in said) == (len(names) == 8)
    assert svg_text(attribution_scores.draw(result)) == svg_text(attribution_scores.draw(result))


def planted_curves(images: int = 6, steps: int = 4, seed: int = 0) -> list[Curves]:
    draws = np.random.default_rng(seed)
    fractions = tuple(step / steps for step in range(steps + 1))
    return [Curves(fractions, *(tuple(draws.standard_normal(steps + 1)) for _ in range(3))) for _ in range(images)]


def test_curves_are_means_over_images_and_one_random_order_controls_both() -> None:
    curves, images = planted_curves(), ["a", "a", "b", "c", "d", "e"]
    rows = curve_rows({"base": curves}, images, "gradcam", "block_04", "nats")
    of = {row.measure: row for row in rows}
    scores = np.array([one.deletion[1] for one in curves])
    wanted = clustered_mean(scores, np.array([0, 0, 1, 2, 3, 4]), Scale("nats"))
    found = of["deletion at 0.25"].estimate
    assert (found.value, found.low, found.high, found.n) == (wanted.value, wanted.low, wanted.high, 5)
    chance = [of[f"{way}, random order at {at}"] for way, at in (("deletion", 0.25), ("insertion", 0.75))]
    assert chance[0].estimate == chance[1].estimate and {row.role for row in chance} == {"baseline"}
    between = [np.trapezoid(np.subtract(one.insertion, one.deletion), one.fractions) for one in curves]
    assert of["gain"].estimate.value == pytest.approx(np.mean(between), rel=1e-12)  # the order of sums differs


@pytest.mark.thorough
@pytest.mark.parametrize("names", [("base",), ("base", "sft", "dpo"), tuple(LONG)])
def test_curves_are_drawn_as_they_are_without_overlaps(names) -> None:
    made = {name: planted_curves(seed=seed) for seed, name in enumerate(names)}
    result = faithfulness(made, list("abcdef"), "gradcam", "block_04", "nats", "mean")
    rows = [row for row in result.rows if row.role != "difference"]
    figure = attribution_curves.draw(result)
    assert overlapping(figure) == []
    solid, dashed = figure.axes[1].lines[:2]
    assert list(solid.get_ydata()) == [r.estimate.value for r in rows if r.measure.startswith("insertion at")][:5]
    assert dashed.get_linestyle() == "--" and list(solid.get_xdata()) == [0, 0.25, 0.5, 0.75, 1]
    said = attribution_curves.caption(result)
    assert "n = 6 images" in said and "baseline (mean)" in said and said.count(" [") == len(names)
    assert svg_text(attribution_curves.draw(result)) == svg_text(attribution_curves.draw(result))


def test_one_image_has_no_interval_and_unlike_curves_are_refused() -> None:
    rows = faithfulness({"base": planted_curves(1)}, ["a"], "gradcam", "x", "nats", "mean")
    assert all(row.estimate.low == row.estimate.high for row in rows.rows)
    assert "one image, no interval" in attribution_curves.caption(rows)
    for curves in (planted_curves(2), [*planted_curves(2), *planted_curves(1, steps=5)], []):
        with pytest.raises(DataError, match="curves of 3 images"):
            curve_rows({"base": curves}, list("abc"), "gradcam", "x", "nats")


def test_gains_are_compared_image_by_image() -> None:
    base, sft = planted_curves(seed=0), planted_curves(seed=1)
    result = faithfulness({"base": base, "sft": sft}, list("abcdef"), "gradcam", "x", "nats", "mean")
    [apart] = [row for row in result.rows if row.role == "difference"]
    wanted = clustered_mean(
        np.array([one.gain - other.gain for one, other in zip(sft, base, strict=True)]),
        np.arange(6), Scale("nats"),
    )  # fmt: skip
    assert (apart.checkpoint, apart.reference, apart.measure) == ("sft", "base", "gain")
    assert (apart.estimate.value, apart.estimate.low, apart.estimate.high) == (wanted.value, wanted.low, wanted.high)
    copies = faithfulness({"base": base, "copy": base}, list("abcdef"), "gradcam", "x", "nats", "mean")
    assert all(row.estimate.value == 0 for row in copies.rows if row.role == "difference")
