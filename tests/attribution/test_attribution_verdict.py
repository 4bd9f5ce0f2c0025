"""What is said of maps: that they show where a model looks only where they do; never of noise, wherever its bias is."""

from dataclasses import replace

import numpy as np
import pytest
from planted_attributions import planted

from visprobe.attribution.evidence.scores import score
from visprobe.attribution.evidence.verdict import attribution_verdict, preferred

BEATS = "they beat all controls"
SIDE, IMAGES, NULLS = 6, 10, 500


def low(rng):
    """Regions of one patch or two each, all in the lowest row, where no bias to the middle reaches."""
    regions = np.zeros((IMAGES, SIDE, SIDE))
    for one, column in zip(regions, rng.integers(0, SIDE - 1, IMAGES), strict=True):
        one[-1, column : column + rng.integers(1, 3)] = 1
    return tuple(regions)


def said(base, randomised, regions, images=None):
    arrays = {"base": base, "randomised": randomised}
    attributions = planted(arrays, regions, images, controls=("centre", "randomised"))
    [statement] = attribution_verdict(score(attributions))
    return statement.text


def test_how_often_the_chosen_answer_is_the_likelier_one():
    maps = {"base": np.ones((IMAGES, SIDE, SIDE))}
    attributions = planted(maps, low(np.random.default_rng(0)))
    [(key, drawn)] = attributions.maps["base"].items()
    scores = [-1.0, 0.0, *[2.0] * (IMAGES - 2)]
    drawn = [replace(one, score=score) for one, score in zip(drawn, scores, strict=True)]
    text = preferred(replace(attributions, maps={"base": {key: drawn}})).text
    assert text == "The chosen answer is more likely than the rejected one in 8 of 10 questions for base."


@pytest.mark.thorough
def test_noise_hardly_ever_beats_all_controls():
    """Of half of the pairs each model prefers rows of its own in all images, as random weights may."""
    rng, beats = np.random.default_rng(0), 0
    for null in range(NULLS):
        rows = 2 * (null % 2) * rng.standard_normal((2, 1, SIDE, 1))
        base, randomised = np.exp(0.5 * rng.standard_normal((2, IMAGES, SIDE, SIDE)) + rows)
        beats += BEATS in said(base, randomised, low(rng))
    # Beating the last control alone has a chance of 2.5 %; three standard errors of 500 draws are 2.1 %.
    assert beats / NULLS <= 0.025 + 0.021


def test_maps_of_what_is_asked_beat_all_controls():
    rng = np.random.default_rng(0)
    regions = low(rng)
    base, randomised = rng.random((2, IMAGES, SIDE, SIDE))
    text = said(base + 20 * np.array(regions), randomised, regions)
    assert BEATS in text and "with the picture +0." in text


def test_a_bias_to_where_answers_lie_is_no_sight_of_them():
    """All mass in the lowest row, whatever the image: more in every region than any control of place has."""
    rng = np.random.default_rng(0)
    base = np.exp(0.1 * rng.standard_normal((IMAGES, SIDE, SIDE)))
    base[:, -1] += 20
    text = said(base, rng.random((IMAGES, SIDE, SIDE)), low(rng))
    assert "does not beat a map that ignores the picture, so they do not show where it looks" in text


def test_copies_of_one_map_are_no_more_sure_than_signs():
    """Two images with one map each, the same: t is not defined, and two equal signs have a chance of one half."""
    one = np.arange(16.0).reshape(4, 4)
    attributions = planted({"base": np.stack([one, one]), "sft": np.stack([one[::-1] ** 2, one[::-1] ** 2])})
    tests = score(attributions).settings["tests"]
    assert {test["p"] for test in tests} <= {0.5, 1.0} and any(test["p"] == 0.5 for test in tests)


def test_specificity_is_mass_in_the_region_beyond_that_of_other_images():
    maps, regions = np.random.default_rng(0).random((4, SIDE, SIDE)), low(np.random.default_rng(0))[:4]
    [row] = score(planted({"base": maps}, regions)).select(measure="specificity", role="value")
    shares = [[(np.float32(one) * region).sum() / np.float32(one).sum() for region in regions] for one in maps]
    inside = np.array(shares)
    expected = np.diag(inside) - (inside.sum(0) - np.diag(inside)) / 3
    assert row.estimate.value == pytest.approx(expected.mean(), abs=1e-6)  # float32 sums
    assert not score(planted({"base": maps}, regions, ["a", "a", "b", "b"])).select(measure="specificity")
