"""Images of fewer pixels, and the centre of images."""

import numpy as np
import pytest

from visprobe.data.crops import Cropped, Resized
from visprobe.data.image_set import MAX_ASPECT, Item, decode
from visprobe.demo.scenes import DigitScenes
from visprobe.errors import UsageError


class Strip:
    """One image of the longest shape that is decoded."""

    name, classes, items = "strip", None, (Item("strip"),)

    def __init__(self, height):
        self.size = height, height * MAX_ASPECT

    def read(self, index):
        height, width = self.size
        return b"P6\n%d %d\n255\n" % (width, height) + bytes(3 * width * height)


def test_a_reduced_image_is_small_and_an_image_that_is_smaller_stays():
    scenes = DigitScenes("val", size=1)
    assert decode(Resized(scenes, 16).read(0)).size == (16, 16)
    assert np.array_equal(np.asarray(decode(Resized(scenes, 64).read(0))), scenes.scene(0).image)
    small = np.asarray(decode(Resized(scenes, 1).read(0)), float)
    assert small.shape == (1, 1, 3)
    np.testing.assert_allclose(small[0, 0], scenes.scene(0).image.mean((0, 1)), atol=30)  # bicubic weighs the middle


@pytest.mark.parametrize(("share", "edge"), [(0.5, 16), (0.75, 8), (1.0, 0)])
def test_a_crop_is_the_centre(share, edge):
    scenes = DigitScenes("val", size=1)
    crop = np.asarray(decode(Cropped(scenes, share).read(0)))
    assert np.array_equal(crop, scenes.scene(0).image[edge : 64 - edge, edge : 64 - edge])


@pytest.mark.parametrize("height", [3, 5])
def test_the_longest_strip_is_still_an_image_afterwards(height):
    decode(Cropped(Strip(height), 0.5).read(0))
    decode(Resized(Strip(height), 2).read(0))


def test_what_leaves_nothing_is_refused():
    with pytest.raises(UsageError, match="0 pixels"):
        Resized(DigitScenes("val", 1), 0)
    for share in (0, 1.5):
        with pytest.raises(UsageError, match="cannot be kept"):
            Cropped(DigitScenes("val", 1), share)
