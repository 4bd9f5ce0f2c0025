"""Masks on patches: exact shares, and the way of the processor whatever it does to pictures."""

import numpy as np
import pytest
from towers import TOWERS, encoder_of, shrink
from transformers import CLIPImageProcessorPil

from visprobe.attribution.evidence.regions import on_patches
from visprobe.errors import DataError

SOFT = ["idefics3", "original sam"]
EXACT = [
    "siglip", "clip", "gemma3", "dinov3", "siglip2", "pixtral", "mistral3", "gemma4", "mllama", "qwen2_5_vl",
    "qwen3_vl", *(name for name in TOWERS if name.endswith("tiles")),
]  # fmt: skip


def box(size, top, left, bottom, right):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_shares_of_patches_are_exact():
    half = on_patches(box((32, 32), 8, 8, 16, 12), (4, 4))
    assert half[1, 1] == half.sum() == 0.5
    # Pixels that lie across the edges of patches (sums of shares of them round), and patches smaller than a pixel.
    np.testing.assert_allclose(on_patches(np.ones((7, 5), bool), (3, 2)), np.ones((3, 2)), atol=1e-12)
    np.testing.assert_allclose(on_patches(box((1, 3), 0, 1, 1, 2), (1, 2)), [[1 / 3, 1 / 3]], atol=1e-12)
    assert np.array_equal(on_patches(np.eye(2, dtype=bool), (4, 4)), np.eye(2).repeat(2, 0).repeat(2, 1))


def test_the_area_stays_what_it_is():
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    for grid in ((4, 4), (5, 3), (37, 53), (40, 60)):
        assert on_patches(mask, grid).mean() == pytest.approx(mask.mean(), abs=1e-12)  # float64 sums


@pytest.mark.parametrize("name", [*SOFT, *EXACT])
def test_a_picture_that_is_not_resized_gives_the_patches_themselves(tmp_path, monkeypatch, name):
    shrink(monkeypatch)
    _, size, grid, patch, _ = TOWERS[name]
    encoder = encoder_of(name, tmp_path)
    wanted = np.zeros(grid)
    wanted[1, 2] = 1
    wanted[-1, 0] = 0.5
    mask = box(size, patch, 2 * patch, 2 * patch, 3 * patch) | box(size, size[0] - patch, 0, size[0], patch // 2)
    found = on_patches(mask, grid, encoder, size=size[::-1])
    # Float32 pixels, normalised by the processor; some enlarge the picture and shrink it again, which softens edges.
    np.testing.assert_allclose(found, wanted, atol=0.07 if name in SOFT else 1e-5)
    assert on_patches(mask, (1, 1), encoder)[0, 0] == pytest.approx(found.mean(), abs=1e-12)


def test_what_the_processor_crops_and_pads_is_cropped_and_padded(tmp_path):
    encoder = encoder_of("siglip", tmp_path)
    encoder.processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    shown = on_patches(box((64, 128), 0, 32, 64, 64), (4, 4), encoder)
    # The left half of the middle square; bicubic weights move little over its edge.
    np.testing.assert_allclose(shown, [[1, 1, 0, 0]] * 4, atol=0.02)
    with pytest.raises(DataError, match="crops it away"):
        on_patches(box((64, 128), 0, 0, 64, 8), (4, 4), encoder)
    encoder.processor = CLIPImageProcessorPil(do_resize=False, crop_size={"height": 32, "width": 32})
    padded = on_patches(np.ones((16, 16), bool), (4, 4), encoder)  # in the middle of black
    assert np.array_equal(padded, np.pad(np.ones((2, 2)), 1))


def test_faults_are_said():
    mask = box((4, 6), 0, 0, 2, 2)
    with pytest.raises(DataError, match="the mask is 6x4 pixels, its picture 4x6"):
        on_patches(mask, (2, 3), size=(4, 6))
    with pytest.raises(DataError, match="holds no pixel"):
        on_patches(np.zeros((4, 6), bool), (2, 3))
    with pytest.raises(DataError, match=r"int64 of shape \(4, 6\)"):
        on_patches(mask.astype(np.int64), (2, 3))
