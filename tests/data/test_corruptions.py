"""Corruptions do what they are called, more with severity, the same for pictures of every size, and never by chance."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from visprobe.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Corrupted,
    check_corruptions,
    convolved,
    corrupt,
    trail,
)
from visprobe.data.image_set import BadImage, Item, decode
from visprobe.demo.scenes import DigitScenes
from visprobe.errors import UsageError


class Files:
    name, classes = "files", None

    def __init__(self, *data: bytes) -> None:
        self.data = data
        self.items = tuple(Item(f"image-{i}") for i in range(len(data)))

    def read(self, index):
        if self.data[index] == b"gone":
            raise OSError("gone")
        return self.data[index]


def picture(height, width):
    """Coarse and fine structure in all channels, some of it dark, some bright."""
    draw = np.random.default_rng(3)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    fine = Image.fromarray(draw.integers(0, 256, (75, 75, 3), dtype=np.uint8)).resize((width, height))
    return np.asarray(Image.blend(coarse, fine, 0.4))


def grey(side, value=128):
    return np.full((side, side, 3), value, np.uint8)


def damaged(image, kind, severity=3, seed=0):
    return corrupt(image, kind, severity, np.random.default_rng(seed))


def error(a, b):
    return float(np.square(a.astype(float) - b).mean())


def hidden(image, foggy):
    """Share of the picture's contrast that is gone; to a tenth, for clouds may resemble the picture."""
    return round(1 - float(np.polyfit(image.ravel(), foggy.ravel(), 1)[0]), 1)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(64, 64), (224, 300), (450, 320)])
def test_shape_and_type_stay_and_damage_grows_with_severity(kind, shape):
    image = picture(*shape)
    results = [damaged(image, kind, severity) for severity in SEVERITIES]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in results)
    measure = hidden if kind == "fog" else error  # clouds may happen to have the colour of what they hide
    errors = [measure(image, one) for one in results]
    assert errors[0] > 0
    assert errors == sorted(errors)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_picture_is_damaged_alike_at_every_size(kind):
    """Of the same picture at 224 and at 448 pixels, the damage that is left at 224 pixels is alike."""
    large = picture(448, 448)
    small = np.asarray(Image.fromarray(large).resize((224, 224), Image.Resampling.BOX))
    reduced = np.asarray(Image.fromarray(damaged(large, kind)).resize((224, 224), Image.Resampling.BOX))
    ratio = error(small, reduced) / error(small, damaged(small, kind))
    # Random fields and edges of kernels differ: the damage need be of one size, and constants that ignore the size
    # of the picture would be wrong by factors of 4.
    assert 0.6 < ratio < 1.5


@pytest.mark.parametrize(("severity", "spread"), [(1, 0.08), (3, 0.18)])
@pytest.mark.parametrize(("side", "grain"), [(224, 1), (448, 2)])
def test_gaussian_noise_has_the_published_spread_at_the_published_grain(severity, spread, side, grain):
    noise = damaged(grey(side), "gaussian_noise", severity)[::grain, ::grain] / 255 - 128 / 255
    assert noise.std() == pytest.approx(spread, rel=0.02)  # 150,528 draws: 0.2 % sampling, and 0.6 % lost in clipping
    assert abs(noise.mean()) < 5 * spread / np.sqrt(noise.size) + 1 / 255


def test_gaussian_noise_of_a_small_picture_is_what_reducing_a_noisy_one_leaves():
    noise = damaged(grey(56), "gaussian_noise", 1) / 255
    assert noise.std() == pytest.approx(0.08 / 4, rel=0.05)  # the mean of 16 grains; 9,408 draws: 0.7 %


def test_shot_noise_has_the_variance_of_counts_and_impulses_their_share():
    counted = damaged(grey(224), "shot_noise", 1) / 255
    assert counted.var() == pytest.approx((128 / 255) / 60, rel=0.03)  # 150,528 draws: 0.4 % sampling
    hit = damaged(grey(224), "impulse_noise", 4)
    share = np.isin(hit, (0, 255)).mean()
    assert share == pytest.approx(0.17, abs=0.005)  # 5 standard errors of 150,528 draws
    assert (hit == 0).mean() == pytest.approx(share / 2, abs=0.005)


def test_blur_kernels_keep_flat_pictures_and_a_disk_is_a_disk():
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform"):
        assert np.abs(damaged(grey(224), kind, 5).astype(int) - 128).max() == 0
    point = np.zeros((224, 224, 3), np.uint8)
    point[100:124, 100:124] = 255
    blurred = damaged(point, "defocus_blur", 5)[..., 0] / 255
    rows, columns = np.indices(blurred.shape)
    outside = np.hypot(*(np.maximum(np.abs(at - 111.5) - 11.5, 0) for at in (rows, columns))) > 10 + 1.5
    assert blurred[outside].max() == 0  # nothing is farther from the square than the radius and a pixel's diagonal
    assert blurred.sum() == pytest.approx(24 * 24, rel=0.01)  # rounding to 8 bits


def test_a_convolution_is_the_sum_over_the_kernel():
    draw = np.random.default_rng(0)
    pixels, kernel = draw.random((7, 9, 3), np.float32), trail(2.0, 1.5, 30.0)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    r = kernel.shape[0] // 2
    padded = np.pad(pixels, ((r, r), (r, r), (0, 0)), "symmetric")
    direct = sum(
        kernel[i, j] * padded[2 * r - i : 2 * r - i + 7, 2 * r - j : 2 * r - j + 9]
        for i in range(2 * r + 1)
        for j in range(2 * r + 1)
    )
    np.testing.assert_allclose(convolved(pixels, kernel), direct, atol=1e-6)  # float32 sums of 49 products


def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation():
    image = picture(8, 8) // 2 + 20  # no channel is cut off
    for before, after in zip(
        image.reshape(-1, 3) / 255, damaged(image, "brightness", 2).reshape(-1, 3) / 255, strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
        np.testing.assert_allclose(after, expected, atol=0.51 / 255)  # rounding to 8 bits
    assert (damaged(grey(4, 0), "brightness", 1) == 26).all()  # black has no hue: it turns grey, 0.1 x 255


def test_contrast_scales_about_the_mean_of_each_channel():
    image = picture(40, 50)
    mean = image.mean((0, 1))
    np.testing.assert_allclose(damaged(image, "contrast", 3), (image - mean) * 0.2 + mean, atol=0.51)


def test_pixelate_takes_means_of_blocks():
    image = picture(224, 224)
    blocks = damaged(image, "pixelate", 5).reshape(56, 4, 56, 4, 3)
    means = image.reshape(56, 4, 56, 4, 3).mean((1, 3), keepdims=True)
    np.testing.assert_allclose(blocks, np.broadcast_to(means, blocks.shape), atol=0.51)


def test_jpeg_is_what_pillow_writes():
    image, buffer = picture(224, 224), io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=7)
    assert np.array_equal(damaged(image, "jpeg_compression", 5), np.asarray(Image.open(buffer)))


def test_fog_keeps_black_dark_and_the_range():
    fogged = damaged(np.where(np.arange(224)[:, None, None] < 112, grey(224, 0), grey(224, 200)), "fog", 1) / 255
    # Closed form at thickness 1.5: black under no cloud stays black, and bright under a full cloud stays as bright.
    assert fogged.min() >= 0
    assert fogged.max() <= 200 / 255 + 0.51 / 255


def test_what_is_random_depends_on_the_content_and_the_seed_alone():
    scenes = DigitScenes("val", size=3)
    noisy = Corrupted(scenes, "gaussian_noise", 2, seed=5)
    again = Corrupted(Files(scenes.read(2), scenes.read(0)), "gaussian_noise", 2, seed=5)
    assert noisy.read(0) == again.read(1)
    assert noisy.read(2) == again.read(0)
    assert noisy.read(0) != Corrupted(scenes, "gaussian_noise", 2, seed=6).read(0)
    assert noisy.items is scenes.items
    assert noisy.classes == scenes.classes
    change = [np.asarray(decode(noisy.read(i)), int) - scenes.scene(i).image for i in (0, 1)]
    assert abs(np.corrcoef(change[0].ravel(), change[1].ravel())[0, 1]) < 0.1  # another image, other noise


def test_damaged_and_missing_images_fail_as_the_original_does():
    noisy = Corrupted(Files(b"no image", b"gone"), "fog", 1)
    with pytest.raises(BadImage, match="not an image"):
        decode(noisy.read(0))
    with pytest.raises(OSError, match="gone"):
        noisy.read(1)


def test_very_large_images_are_reduced_first():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((1000, 1200, 3), np.uint8)).save(buffer, "PNG")
    assert decode(Corrupted(Files(buffer.getvalue()), "contrast", 1).read(0)).size == (1075, 896)


def test_unknown_kinds_and_severities_are_all_said():
    with pytest.raises(UsageError, match="'frost', 'rain'"):
        check_corruptions(["frost", "fog", "rain"], [1])
    with pytest.raises(UsageError, match="severity 6"):
        Corrupted(Files(), "fog", 6)
