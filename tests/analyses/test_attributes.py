"""Attributes of digit scenes: answers read off the pixels, probes on features that hold one of them and no other."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_marks import mark
from PIL import Image

from visprobe.analyses.core.analysis import Inputs
from visprobe.data.image_set import Item
from visprobe.data.subset import Subset
from visprobe.demo.attributes.analysis import MAJORITY, READABLE, attributes
from visprobe.demo.attributes.targets import ATTRIBUTES, NONE, QUARTER_ATTRIBUTES, labels_of, scenes_of
from visprobe.demo.scenes import CELLS, COLOURS, DigitScenes
from visprobe.errors import DataError, UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import REDUCTIONS

TRAIN, VAL = DigitScenes("train", 200), DigitScenes("val", 150)
BY_NAME = {attribute.name: attribute for attribute in (*ATTRIBUTES, *QUARTER_ATTRIBUTES)}


def one_hot(labels, width):
    return np.eye(width)[labels]


def colours(images, draw):
    """Knows the colour of the largest digit; in quarters, the colour of what is there. All else is noise."""
    scenes = [*scenes_of(images).values()]
    whole = one_hot(labels_of(BY_NAME["colour of the largest"], scenes), 6)
    parts = labels_of(BY_NAME["colour in a quarter"], scenes)
    quarters = np.where(parts[..., None] == NONE, 0, one_hot(parts, 6))
    return whole + draw.normal(0, 0.05, whole.shape), quarters + draw.normal(0, 0.05, quarters.shape)


def noise(images, draw):
    return draw.normal(size=(len(images.items), 6)), draw.normal(size=(len(images.items), 4, 6))


def seen(images, name, look, seed):
    whole, quarters = look(images, np.random.default_rng(seed))
    sites = {"block_02": whole.astype(np.float32), "block_02:quarters": quarters.astype(np.float32)}
    ids = tuple(item.id for item in images.items)
    return FeatureSet(
        name, images.name, ids, np.zeros(len(ids), np.int64), ("x",), sites, "block_02", baseline=mark(name)
    )


@pytest.fixture(scope="module")
def result():
    looks = {"base": noise, "sft": colours, "same": colours, "untrained": noise}
    seeds = {"base": 0, "sft": 1, "same": 1, "untrained": 2}
    own = [seen(VAL, name, look, seeds[name]) for name, look in looks.items()]
    learned = [seen(TRAIN, name, look, 10 + seeds[name]) for name, look in looks.items()]
    return attributes(Inputs(own[0], tuple(own[1:3]), tuple(own[3:]), (), 0, tuple(learned), {}, VAL, TRAIN))


def one(result, checkpoint, measure, reference=None):
    [row] = result.select(checkpoint=checkpoint, measure=f"attribute_{measure}", reference=reference)
    return row.estimate


def test_what_the_features_hold_is_read_and_nothing_else(result):
    assert one(result, "sft", "consumed/colour of the largest").value == 1
    assert one(result, "sft", "quarters/colour in a quarter").value == 1
    for name in ("digit of the largest", "place of the largest", "how many"):
        chance = result.settings["chance"][name]
        estimate = one(result, "sft", f"consumed/{name}")
        assert estimate.low - 0.1 < chance < estimate.high + 0.1  # noise: Wilson at 95 %, and a probe that is biased
    better = one(result, "sft", "consumed/colour of the largest", "base")
    assert better.low > 0.6
    [test] = [
        test for test in result.settings["tests"]
        if (test["checkpoint"], test["reference"]) == ("sft", "base")
        and test["measure"] == "attribute_consumed/colour of the largest"
    ]  # fmt: skip
    assert test["p"] <= test["p_holm"] < 1e-6


def test_equal_encoders_differ_by_exactly_nothing(result):
    rows = result.select(checkpoint="same", reference="sft")
    assert len(rows) == len(BY_NAME)
    assert {row.estimate.value for row in rows} == {0.0}
    assert {test["p"] for test in result.settings["tests"] if test["reference"] == "sft"} == {1.0}


def test_the_most_frequent_answer_of_the_training_scenes_is_a_baseline(result):
    training, scenes = ([*scenes_of(images).values()] for images in (TRAIN, VAL))
    for name, attribute in BY_NAME.items():
        answers, truth = labels_of(attribute, training).ravel(), labels_of(attribute, scenes).ravel()
        most = np.bincount(answers[answers != NONE]).argmax()
        place = "consumed" if attribute in ATTRIBUTES else "quarters"
        share = one(result, MAJORITY, f"{place}/{name}")
        assert share.value == pytest.approx((truth[truth != NONE] == most).mean(), abs=1e-12)
    assert {row.role for row in result.select(checkpoint="untrained")} == {"baseline"}


def test_quarters_of_one_image_go_together(result):
    assert one(result, "base", "quarters/digit in a quarter").n == 150
    occupied = (labels_of(BY_NAME["anything in a quarter"], [*scenes_of(VAL).values()]) == 1).sum()
    assert occupied > 300  # rows, of which the interval does not count each as independent


def test_answers_are_what_the_pixels_show():
    for scene in scenes_of(Subset(VAL, range(0, 60, 3))).values():
        areas = [(scene.masks == i + 1) for i in range(len(scene.digits))]
        largest = scene.digits[0]
        rows, columns = np.nonzero(areas[0])
        assert CELLS[BY_NAME["place of the largest"].of(scene)] == (
            f"{'top' if rows.mean() < 32 else 'bottom'}-{'left' if columns.mean() < 32 else 'right'}"
        )
        paint = scene.image[areas[0]].astype(float).max(0)
        nearest = min(COLOURS, key=lambda name: np.linalg.norm(paint / paint.max() - np.divide(COLOURS[name], 255)))
        assert [*COLOURS][BY_NAME["colour of the largest"].of(scene)] == nearest == largest.colour
        assert BY_NAME["how many"].of(scene) + 1 == scene.masks.max()
        corner = scene.masks[:32, :32].max()
        assert (BY_NAME["digit top-left"].of(scene) == NONE) == (corner == 0)
        if corner:
            assert BY_NAME["digit top-left"].of(scene) == scene.digits[corner - 1].digit


def test_quarters_are_means_over_blocks_of_tokens():
    tokens = torch.randn(3, 36, 5, generator=torch.Generator().manual_seed(0))
    blocks = tokens.reshape(3, 2, 3, 2, 3, 5).mean((2, 4)).reshape(3, 4, 5)
    # Sums of nine float32 numbers in another order.
    torch.testing.assert_close(REDUCTIONS["quarters"](tokens), blocks, atol=1e-6, rtol=1e-6)
    odd = torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(REDUCTIONS["quarters"](odd)[0, 3], odd[0, [4, 5, 7, 8]].mean(0), atol=1e-6, rtol=1e-6)
    with pytest.raises(UsageError, match="no square grid"):
        REDUCTIONS["quarters"](torch.zeros(1, 12, 2))


class Photos:
    name, classes, items = "photos", None, (Item("a"),)

    def read(self, index):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        return buffer.getvalue()


def test_it_is_for_the_built_in_scenes_with_their_training_split():
    READABLE.check(Subset(VAL, range(5)), TRAIN)
    with pytest.raises(DataError, match="photos"):
        READABLE.check(Photos(), None)
    with pytest.raises(DataError, match="training scenes"):
        READABLE.check(VAL, None)


def test_scenes_of_both_splits_are_counted_by_content(result):
    assert result.settings["overlap"] == {"images": None, "examples": []}  # planted features know no contents
    alike = {"base": noise}
    own, learned = (
        [replace(seen(images, name, look, seed), contents=contents) for name, look in alike.items()]
        for images, seed, contents in (
            (VAL, 0, tuple(map(str, range(150)))), (TRAIN, 1, tuple(str(i) for i in range(147, 347))),
        )
    )  # fmt: skip
    found = attributes(Inputs(own[0], (), (), (), 0, tuple(learned), {}, VAL, TRAIN))
    assert found.settings["overlap"]["images"] == 3
    assert found.warnings[0].startswith(f"3 of 150 images of {VAL.name} are in {TRAIN.name} too")
