"""The part of a picture that a tower sees."""

import numpy as np
import pytest
from PIL import Image
from towers import TOWERS, encoder_of, siglip
from transformers import LlavaImageProcessorPil

from visprobe.attribution.evidence.regions import on_patches, patch_means
from visprobe.attribution.targets.shown import as_shown

SOME = ["llava-C", "clip", "onevision", "gemma3", "Dinov2Model", "ViTModel", "original mlcd", "siglip2", "qwen2_5_vl",
        "internvl", "smolvlm tiles", "llava_onevision tiles"]  # fmt: skip


def blotches(width, height):
    """Smooth grey, so that resampling changes it little, and different everywhere."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    grey = 127 + 60 * np.sin(2 * x + y) + 60 * np.cos(3 * y - x)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("size", [(180, 120), (96, 200)])
@pytest.mark.parametrize("name", [name for name in SOME if name in TOWERS])
def test_a_map_laid_over_it_lies_where_the_tower_sees_it(name, size, tmp_path):
    encoder = encoder_of(name, tmp_path)
    picture = blotches(*size)
    seen = patch_means(picture, encoder)
    shown = np.asarray(as_shown(picture, encoder).convert("L"), float) / 255
    cells = np.array([[cell.mean() for cell in np.array_split(row, seen.shape[1], axis=1)]
                      for row in np.array_split(shown, seen.shape[0])])  # fmt: skip
    full = seen > 0.02  # patches of nothing but padding are 0
    # Partly padded patches average what they show of the picture; the others differ by how pixels are resampled.
    assert np.quantile(np.abs(seen - cells)[full], 0.8) < 0.03
    assert np.corrcoef(seen[full], cells[full])[0, 1] > 0.98


def test_nothing_is_cut_where_the_whole_picture_is_seen(tmp_path):
    picture = blotches(50, 70)
    assert as_shown(picture, siglip(tmp_path)) is picture


def test_what_is_cropped_is_gone(tmp_path):
    encoder = encoder_of("clip", tmp_path)
    shown = as_shown(blotches(200, 100), encoder)
    assert shown.size == pytest.approx((100, 100), abs=2)
    mask = np.zeros((100, 200), bool)
    mask[:, 50:100] = True  # the left half of the square in the middle
    region = on_patches(mask, encoder.grid, encoder)
    assert region[:, : region.shape[1] // 2].mean() > 0.9 and region[:, region.shape[1] // 2 + 1 :].mean() < 0.05


@pytest.mark.parametrize("size", [(200, 150), (200, 110), (150, 200), (200, 60), (40, 200), (200, 20), (200, 4)])
def test_a_picture_padded_to_a_square_is_shown_in_its_padding(size, tmp_path):
    encoder = encoder_of("llava-C", tmp_path)
    side = encoder.config.image_size
    square = {"height": side, "width": side}
    encoder.processor = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": side}, crop_size=square)
    shown = as_shown(blotches(*size), encoder)
    longest = max(size)
    assert shown.size == pytest.approx((longest, longest), abs=0.03 * longest)
    lit = np.argwhere(np.asarray(shown.convert("L")) > 0)  # the picture is nowhere black
    first, last = lit.min(0), lit.max(0) + 1
    for low, high, own in zip(first[::-1], last[::-1], size, strict=True):
        assert (low, high) == pytest.approx(((longest - own) / 2, (longest + own) / 2), abs=0.03 * longest)


def test_the_smallest_picture_is_a_picture(tmp_path):
    encoder = encoder_of("clip", tmp_path)
    for size in ((1, 1), (1, 150), (150, 1)):
        assert min(as_shown(blotches(*size), encoder).size) >= 1
