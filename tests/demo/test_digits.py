"""The digit scenes: deterministic, true to their description, and fair between the splits."""

import hashlib
import time
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from visprobe.data.image_set import decode
from visprobe.demo.scenes import CELLS, COLOURS, SIDE, DigitScenes, _handwriting
from visprobe.errors import UsageError


@pytest.fixture(scope="module")
def scenes():
    data = DigitScenes("val", 400)
    return [data.scene(i) for i in range(400)]


def test_a_scene_depends_on_split_seed_and_index_alone():
    small, large = DigitScenes("train", 8, seed=3), DigitScenes("train", 5000, seed=3)
    backwards = [large.read(i) for i in reversed(range(8))][::-1]
    assert backwards == [small.read(i) for i in range(8)]
    assert [item.id for item in small.items] == [item.id for item in large.items[:8]]
    others = {DigitScenes("train", 8, 4).read(7), DigitScenes("val", 8, 3).read(7), small.read(6), small.read(7)}
    assert len(others) == 4


def test_the_scenes_are_the_same_as_ever():
    """Published numbers rest on these pixels: whoever changes them must mean it."""
    data = DigitScenes("val", 3)
    digest = hashlib.sha256(b"".join(data.scene(i).masks.tobytes() for i in range(3))).hexdigest()
    assert digest[:16] == "502eb3ed9ed265be"
    assert [[(d.digit, d.colour, d.cell) for d in data.scene(i).digits] for i in (0, 2)] == [
        [(0, "green", "top-right"), (8, "white", "top-left")],
        [(2, "white", "top-right"), (5, "purple", "bottom-left"), (8, "yellow", "top-left")],
    ]


def test_reading_gives_the_picture_that_the_scene_shows():
    data = DigitScenes("val", 5)
    assert np.array_equal(np.asarray(decode(data.read(4))), data.scene(4).image)
    assert data.items[4].label == data.scene(4).label == 4
    assert data.classes == tuple("0123456789") and data.name == "digits-5-seed0/val"


def test_classes_are_balanced_in_every_prefix():
    assert set(Counter(item.label for item in DigitScenes("train", 70).items).values()) == {7}


def test_masks_boxes_and_cells_agree(scenes):
    for scene in scenes:
        assert scene.image.shape == (SIDE, SIDE, 3) and scene.image.dtype == scene.masks.dtype == np.uint8
        assert set(np.unique(scene.masks)) == set(range(len(scene.digits) + 1))
        for i, digit in enumerate(scene.digits):
            left, top, right, bottom = digit.box
            rows, columns = np.nonzero(scene.masks == i + 1)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == digit.box
            assert max(right - left, bottom - top) <= digit.size
            row, column = divmod(CELLS.index(digit.cell), 2)
            assert 32 * row <= top and bottom <= 32 * row + 32 and 32 * column <= left and right <= 32 * column + 32


def test_digits_of_a_scene_differ_and_the_largest_is_clear(scenes):
    for scene in scenes:
        for values in zip(*[(d.digit, d.colour, d.cell) for d in scene.digits], strict=True):
            assert len(set(values)) == len(scene.digits)
        sizes = [d.size for d in scene.digits]
        assert all(sizes[0] - size >= 4 for size in sizes[1:])


def test_digits_have_the_colour_they_are_said_to_have(scenes):
    """The nearest palette colour of the mean pixel, after removing brightness, is the named one."""
    names = list(COLOURS)
    palette = np.array([COLOURS[name] for name in names], float)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    for scene in scenes:
        for i, digit in enumerate(scene.digits):
            mean = scene.image[scene.masks == i + 1].mean(0)
            assert names[np.argmax(palette @ (mean / np.linalg.norm(mean)))] == digit.colour


def test_counts_colours_cells_and_digits_are_spread_evenly(scenes):
    everything = [d for scene in scenes for d in scene.digits]
    for values, kinds in [
        ([len(scene.digits) for scene in scenes], 4),
        ([d.colour for d in everything], 6),
        ([d.cell for d in everything], 4),
        ([d.digit for d in everything], 10),
    ]:
        counts = np.array(list(Counter(values).values()))
        expected = len(values) / kinds
        # four standard deviations of a count; the scenes are fixed, so this never fails by chance
        assert len(counts) == kinds and np.all(abs(counts - expected) < 4 * np.sqrt(expected))


def test_splits_share_no_handwriting_and_keep_the_proportions():
    train, val = _handwriting("train"), _handwriting("val")
    assert sum(map(len, train)) + sum(map(len, val)) == len(load_digits().target) == 1797
    for ours, theirs in zip(train, val, strict=True):
        assert abs(len(ours) / (len(ours) + len(theirs)) - 2 / 3) < 0.006
        assert not {image.tobytes() for image in ours} & {image.tobytes() for image in theirs}


@pytest.mark.thorough
def test_a_scene_takes_less_than_a_few_milliseconds():
    data = DigitScenes("train", 200)
    data.scene(0)
    start = time.process_time()
    for i in range(200):
        data.scene(i)
    assert (time.process_time() - start) / 200 < 5e-3  # measured 0.6 ms; the rest is room for a slow or busy machine


def test_nonsense_is_refused():
    with pytest.raises(UsageError, match="no split 'test'"):
        DigitScenes("test", 3)
    with pytest.raises(UsageError, match="size -1"):
        DigitScenes("val", -1)
    with pytest.raises(IndexError):
        DigitScenes("val", 3).scene(3)
