"""Planted localisation: a tower that tells digits apart looks at the digit that it is asked about; a random one not."""

import numpy as np
import pytest
from PIL import Image

from visprobe.attribution.attributions import Attributions
from visprobe.attribution.evidence.controls import randomised
from visprobe.attribution.evidence.regions import on_patches
from visprobe.attribution.evidence.scores import score
from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.targets.classes import class_logit
from visprobe.attribution.targets.subject import TowerSubject
from visprobe.demo.base import BASE
from visprobe.demo.scenes import DigitScenes
from visprobe.encoders import load_encoder

METHODS, CLEAR = ("gradcam", "gradient-norm"), ("gradcam@block_02", "gradcam@block_04", "gradient-norm@block_02")
SCENES = 40


def presence(encoder, scenes):
    """A linear probe of the mean token for each digit: ridge regression on whether it is there."""
    batches = np.array_split(np.arange(len(scenes)), 6)
    features = np.concatenate([
        encoder.forward(encoder.preprocess([picture(scenes[i]) for i in batch]), ["consumed"])["consumed"].mean(1)
        for batch in batches
    ]).astype(np.float64)  # fmt: skip
    there = np.array([[digit in [placed.digit for placed in scene.digits] for digit in range(10)] for scene in scenes])
    centre, spread, often = features.mean(0), features.std(0), there.mean(0)
    z = (features - centre) / spread
    rows = np.linalg.solve(z.T @ z + 5 * np.eye(z.shape[1]), z.T @ (there - often)).T / spread
    return rows, often - rows @ centre


def picture(scene):
    return Image.fromarray(scene.image)


@pytest.fixture(scope="module")
def found():
    """Every scene of two digits or more is asked about each of them."""
    encoder, learned, shown = load_encoder(BASE), DigitScenes("train", 300), DigitScenes("val", 2 * SCENES)
    probe = presence(encoder, [learned.scene(index) for index in range(learned.size)])
    scenes = [scene for index in range(shown.size) if len((scene := shown.scene(index)).digits) > 1][:SCENES]
    asked = [(n, scene, number) for n, scene in enumerate(scenes) for number in range(len(scene.digits))]
    regions = tuple(on_patches(scene.masks == number + 1, (8, 8), encoder) for _, scene, number in asked)
    subject = TowerSubject(encoder, class_logit(*probe, [scene.digits[number].digit for _, scene, number in asked]))
    images = [picture(scene) for _, scene, _ in asked]
    made = {"base": maps(subject, images, METHODS, ["block_02", "consumed"])}
    with randomised(subject, 0):
        made["randomised"] = maps(subject, images, METHODS, ["block_02", "consumed"])
    names = [str(n) for n, _, _ in asked]
    return score(Attributions(("base",), ("centre", "randomised"), made, regions, names))


def estimate(result, name, site, measure, reference=None):
    (row,) = result.select(checkpoint=name, site=site, measure=measure, reference=reference)
    return row.estimate


@pytest.mark.thorough
@pytest.mark.parametrize("site", CLEAR)
def test_mass_lies_on_the_digit_that_is_asked_about(found, site):
    for measure in ("mass_inside", "pointing"):
        assert estimate(found, "base", site, measure, "centre").low > 0
    assert estimate(found, "base", site, "selectivity").low > 0
    assert estimate(found, "base", site, "selectivity", "randomised").low > 0


@pytest.mark.parametrize("site", CLEAR)
def test_a_random_model_does_not_follow_the_question(found, site):
    """It may well have more mass on a digit than a map of the frame: digits are bright, and not in the middle."""
    shown = estimate(found, "randomised", site, "selectivity")
    assert shown.low < 0 < shown.high


def test_a_score_of_the_mean_token_has_the_same_gradient_everywhere(found):
    """So its norm shows nothing where the tokens are read, and the scores have to say so."""
    site = "gradient-norm@block_04"
    assert estimate(found, "base", site, "entropy").value == pytest.approx(1)
    assert estimate(found, "base", site, "selectivity").value == pytest.approx(0, abs=1e-6)  # float32 rounds
    assert estimate(found, "base", site, "mass_inside").value == pytest.approx(
        estimate(found, "uniform", site, "mass_inside").value, abs=1e-6
    )
