"""Segmentation: masks lie where the tower looked, planted classes are found, noise is not, faults are said."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from baseline_marks import mark
from PIL import Image
from scipy.stats import ttest_1samp

from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.segmentation.config import SegmentationConfig, check_masks
from visprobe.analyses.segmentation.rows import score_differences
from visprobe.analyses.segmentation.segment import segment
from visprobe.analyses.segmentation.view import UNCOUNTED, Box, View, grid_of, not_smaller, window
from visprobe.data.image_set import BadImage, Item
from visprobe.encoders.pixels import Pixels
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.jackknife import replicate_mean
from visprobe.metrics.segmentation.pixels import patch_counts

SQUASH = transformers.SiglipImageProcessorPil(size={"height": 64, "width": 64})
CROP = transformers.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
RESIZE_THEN_CROP = transformers.BitImageProcessorPil(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64})
PAD = transformers.LlavaImageProcessorPil(
    size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_pad=True, do_center_crop=True
)


class Shows(SimpleNamespace):
    """An encoder as far as `View` looks at it."""

    def preprocess(self, pictures):
        values = torch.as_tensor(np.asarray(self.processor(pictures, return_tensors="pt")["pixel_values"]))
        return Pixels({"pixel_values": values}, (self.grid,) * len(values))


def shows(processor, patch=8, name="base", grid=None):
    grid = grid or (64 // patch,) * 2
    kind = (type(processor).__name__, grid)
    return Shows(name=name, grid=grid, processor=processor, processor_hash=str(id(processor)), pixel_kind=kind,
                 config=SimpleNamespace(patch_size=patch), device=torch.device("cpu"))  # fmt: skip


@pytest.mark.parametrize(
    ("processor", "size", "patch", "box"),
    [
        (SQUASH, (120, 80), 8, (0, 0, 120, 80)),
        (SQUASH, (640, 480), 14, (0, 0, 560, 420)),  # four patches of 14 pixels: the last 8 of 64 are in none
        (SQUASH, (7, 5), 8, (0, 0, 7, 5)),
        (CROP, (120, 80), 8, (20, 0, 100, 80)),
        (CROP, (480, 1000), 8, (0, 260, 480, 740)),
        (RESIZE_THEN_CROP, (200, 160), 8, (36, 16, 164, 144)),
        (PAD, (120, 80), 8, (0, -20, 120, 100)),
    ],
)
def test_the_part_of_an_image_that_patches_show(processor, size, patch, box):
    found = View(shows(processor, patch)).box(*size)
    # resized and cropped sides are rounded to whole pixels of the input: one of them is up to 7.5 pixels of the image
    assert np.abs(np.subtract(found, box)).max() <= 1 + 0.5 * max(size) / 64 * (processor is not SQUASH)


@pytest.mark.parametrize("processor", [SQUASH, CROP, RESIZE_THEN_CROP, PAD])
@pytest.mark.parametrize("size", [(120, 80), (90, 200), (64, 64), (31, 45)])
def test_labels_land_on_the_patches_that_show_them(processor, size):
    """The mask itself, drawn as an image and sent through the processor, is bright where patches hold its class."""
    rng = np.random.default_rng(0)
    coarse = rng.random((5, 7)) < 0.5
    mask = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)).astype(np.int64)
    encoder = shows(processor)
    drawn = Image.fromarray((255 * mask).astype(np.uint8)).convert("RGB")
    pictures = Image.new("RGB", size), Image.new("RGB", size, (255,) * 3), drawn
    black, white, shown = (encoder.preprocess([one]).inputs["pixel_values"][0, 0].numpy() for one in pictures)
    inside = white > black
    bright = np.where(inside, (shown - black) / np.where(inside, white - black, 1), 0).clip(0, 1)
    seen = window(mask, View(encoder).box(*size), lambda part: part < 0)
    counts = patch_counts(not_smaller(seen, (8, 8)), (8, 8), 2, UNCOUNTED)
    whole = inside.reshape(8, 8, 8, 8).all((1, 3))  # of patches half in the padding the shares are of other areas
    share = counts[..., 1] / np.maximum(counts.sum(-1), 1)
    known = bright.reshape(8, 8, 8, 8).mean((1, 3))
    assert whole.sum() >= 16
    # Edges of the window are rounded to whole pixels of the mask, up to half of the 4 that a patch of the smallest has.
    assert np.abs(share - known)[whole].max() < 0.25
    assert np.abs(share - known)[whole].mean() < (
        0.1 if min(size) < 40 else 0.05
    )  # a pixel that two patches show is counted in one
    assert (counts.sum(-1) == 0)[~inside.reshape(8, 8, 8, 8).any((1, 3))].all()


def test_windows_and_grids_by_hand():
    mask = np.array([[1, 2], [3, 255]])
    assert window(mask, Box(-1, 0, 1, 3), lambda part: part == 255).tolist() == [
        [UNCOUNTED, 1], [UNCOUNTED, 3], [UNCOUNTED, UNCOUNTED]]  # fmt: skip
    assert window(mask, Box(1, 0, 2, 2), lambda part: part == 255).tolist() == [[2], [UNCOUNTED]]
    assert not_smaller(np.array([[1, 2]], np.uint16), (2, 3)).tolist() == [[1, 1, 2, 2]] * 2
    assert grid_of(64, (8, 8)) == (8, 8)
    assert grid_of(16, (8, 8)) == (4, 4)
    assert grid_of(13 * 13, (27, 27)) == (13, 13)
    assert grid_of(8 * 4, (16, 8)) == (8, 4)
    assert grid_of(18, (8, 8)) is None
    assert grid_of(37, (8, 8)) is None


class Scenes:
    """Images of 4 x 4 patches of 4 x 4 pixels; each patch has one of three classes, some pixels are 255."""

    classes = None
    mask_classes = ("sky", "road", "car")
    ignored = 255

    def __init__(self, name, count, seed):
        rng = np.random.default_rng(seed)
        self.name, self.items = name, [Item(f"{name}-{i:02d}") for i in range(count)]
        self.patches = rng.choice(3, (count, 4, 4), p=(0.5, 0.3, 0.2))
        self.masks = [np.kron(one, np.ones((4, 4), np.int64)) for one in self.patches]
        for mask in self.masks:
            mask[0, 0] = 255

    def read(self, index):
        raise OSError("there are no pictures")

    def mask(self, index):
        if self.masks[index] is None:
            raise BadImage("there is no mask of this name")
        return self.masks[index]


TRAIN, VAL = Scenes("train", 30, 0), Scenes("val", 12, 1)
CEILING, NOISE = 0.0, 1e6
SHORT = SegmentationConfig(seeds=1, least_steps=20)


def features(encoder, scenes, noise, seed=0):
    shown = np.eye(3)[scenes.patches.reshape(len(scenes.items), 16)]
    shown = shown + noise * np.random.default_rng((seed, len(scenes.items))).standard_normal(shown.shape)
    tokens = {"block_02:tokens": (shown / max(noise, 1)).astype(np.float16)}
    ids = tuple(item.id for item in scenes.items)
    return FeatureSet(encoder, scenes.name, ids, None, None, tokens, "block_02", baseline=mark(encoder))


def inputs(noises, train=TRAIN, val=VAL, baselines=()):
    names = list(noises)
    sets = [tuple(features(name, scenes, noises[name], seed) for seed, name in enumerate(names))
            for scenes in (val, train)]  # fmt: skip
    processor = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    encoders = tuple(shows(processor, 4, name, (4, 4)) for name in names if name not in baselines)
    count = len(encoders)
    return Inputs(sets[0][0], sets[0][1:count], sets[0][count:], encoders, 0, sets[1], {}, val, train)


def value(result, checkpoint, measure, role="value"):
    [row] = result.select(checkpoint=checkpoint, measure=measure, role=role)
    return row.estimate


def test_planted_classes_are_found_and_noise_is_at_the_baseline():
    given = inputs({"base": NOISE, "sft": CEILING, "untrained": NOISE}, baselines=("untrained",))
    result = segment(given, SegmentationConfig(seeds=2))
    # Upsampling blurs borders: patches of four pixels lose pixels on them even where every patch is known.
    assert value(result, "sft", "miou").value > 0.7
    assert value(result, "sft", "patch_recall").value == 1
    assert value(result, "sft", "patch_precision").value == 1
    majority = value(result, "majority class", "pixel_accuracy", "baseline").value
    counted = np.concatenate([mask[mask != 255] for mask in VAL.masks])
    assert majority == pytest.approx((counted == 0).mean())
    assert abs(value(result, "base", "pixel_accuracy").value - majority) < 0.1  # a noise head, 192 patches
    every = (
        value(result, "every class", "patch_recall", "baseline"),
        value(result, "every class", "patch_f1", "baseline"),
    )
    assert every[0].value == 1
    assert every[1].value < 0.6  # recall alone is fooled by saying everything
    difference = value(result, "sft", "miou", "difference")
    assert difference.low > 0.3
    assert difference.value == pytest.approx(value(result, "sft", "miou").value - value(result, "base", "miou").value)
    assert [row.role for row in result.rows if row.checkpoint == "untrained"] == ["baseline"] * 5
    assert np.mean(result.settings["class_iou"]["sft"]["block_02"]) == pytest.approx(value(result, "sft", "miou").value)
    assert len(result.settings["seeds_spread"][0]["miou"]) == 2


def test_equal_features_do_not_differ_and_rows_are_paired_by_id():
    given = inputs({"base": 1.0, "same": 1.0})
    turned = np.random.default_rng(0).permutation(12)
    same = replace(
        given.base,
        encoder="same",
        item_ids=tuple(given.base.item_ids[i] for i in turned),
        sites={site: array[turned] for site, array in given.base.sites.items()},
    )
    result = segment(
        replace(given, others=(same,), support=(given.support[0], replace(given.support[0], encoder="same"))),
        SHORT,
    )
    for row in result.select(role="difference"):
        assert row.estimate.value == row.estimate.low == row.estimate.high == 0
    assert {test["p_holm"] for test in result.settings["tests"]} == {1.0}


def test_p_is_adjusted_over_sites():
    rng = np.random.default_rng(0)
    draws = {site: rng.standard_normal(20) * 0.01 + 0.005 for site in ("block_02", "projected")}
    zero = replicate_mean(np.zeros(20))
    scores = {("b", site): {"miou": replicate_mean(draw)} for site, draw in draws.items()}
    _, tests = score_differences({**{("a", site): {"miou": zero} for site in draws}, **scores}, ["a", "b"])
    p = [ttest_1samp(draw, 0).pvalue for draw in draws.values()]
    assert [test["p"] for test in tests] == pytest.approx(p, rel=1e-9)
    assert min(test["p_holm"] for test in tests) == pytest.approx(min(1, 2 * min(p)), rel=1e-9)


def test_the_published_choice_of_the_epoch_never_loses():
    given = inputs({"base": 2.0})
    result = segment(given, SegmentationConfig(heads=("mlp",), seeds=1, paper=True, least_steps=20))
    best, last, leak = (value(result, "base", f"{kind}_patch_recall").value for kind in ("paper", "honest", "leak"))
    assert leak == pytest.approx(best - last)
    assert leak >= 0
    assert value(result, "base", "miou_mlp").value > 0


def test_images_without_a_usable_mask_are_left_out_and_listed():
    train, val = Scenes("train", 30, 0), Scenes("val", 12, 1)
    val.masks[3], val.masks[5] = None, np.full((16, 16), 255)
    train.masks[0] = None
    result = segment(inputs({"base": CEILING}, train, val), SHORT)
    assert result.settings["n"] == 10
    assert result.settings["n_support"] == 29
    assert [item for item, _ in result.settings["without_mask"]["val"]] == ["val-03", "val-05"]
    assert any("2 images of val were left out, first val-03: there is no mask" in one for one in result.warnings)


def test_images_that_are_in_both_splits_are_said():
    given = inputs({"base": CEILING})
    assert segment(given, SHORT).settings["overlap"]["images"] is None  # contents are not known
    own = tuple(f"hash-{item}" for item in given.base.item_ids)
    others = [f"hash-{item}" for item in given.support[0].item_ids]
    for leaked, said in ((0, []), (2, ["2 of 12 images of val are in train too"])):
        contents = (*own[:leaked], *others[leaked:])
        support = (replace(given.support[0], contents=contents),)
        result = segment(replace(given, base=replace(given.base, contents=own), support=support), SHORT)
        assert result.settings["overlap"]["images"] == leaked
        assert [
            one[: len("2 of 12 images of val are in train too")] for one in result.warnings if "byte" in one
        ] == said
    assert result.settings["overlap"]["examples"][0] == ["val-00", "train-00"]


def test_choices_are_listed_and_one_on_an_edge_is_said():
    result = segment(inputs({"base": CEILING}), SegmentationConfig(seeds=1, least_steps=5))
    pixels, classes = result.settings["chosen"]
    assert (pixels["target"], classes["target"]) == ("pixels", "classes")
    assert pixels["rate"] in result.settings["rates"]["linear"] and 1 <= pixels["round"] <= 5
    assert "last round" in pixels["edges"]  # of five steps
    assert any("linear heads do best with the last round that was tried (5; first base at block_02)" in one
               and "--steps" in one for one in result.warnings)  # fmt: skip
    assert "5 steps" in result.settings["training"]


def test_a_class_that_is_never_in_training_is_said():
    train = Scenes("train", 30, 0)
    train.masks = [np.where(mask == 2, 255, mask) for mask in train.masks]
    result = segment(inputs({"base": CEILING}, train), SHORT)
    assert any("car: in the masks of val, never in training" in warning for warning in result.warnings)
    assert result.settings["class_pixels_train"][2] == 0


def test_what_is_ignored_does_not_count_and_a_background_does():
    result = segment(inputs({"base": CEILING}), replace(SHORT, ignored=(2,)))
    assert result.settings["ignored"] == [2, 255]
    assert result.settings["class_pixels"][2] == 0
    assert result.settings["class_iou"]["base"]["block_02"][2] is None
    given = inputs({"base": CEILING})
    given.images.ignored = 0
    try:
        assert segment(given, replace(SHORT, ignored=(255,), background=0)).settings["ignored"] == [255]
    finally:
        given.images.ignored = 255


def holding(scenes, number):
    changed = Scenes(scenes.name, len(scenes.items), 0)
    changed.masks[1] = np.where(changed.masks[1] == 2, number, changed.masks[1])
    return changed


@pytest.mark.parametrize(
    ("given", "asked", "words"),
    [
        (
            lambda: inputs({"base": 0.0}, val=holding(VAL, 9)),
            SegmentationConfig(),
            "the mask of val-01 holds the numbers 0 to 9",
        ),
        (
            lambda: inputs({"base": 0.0}, train=holding(TRAIN, -3)),
            SegmentationConfig(),
            "the mask of train-01 holds the numbers -3",
        ),
        (lambda: replace(inputs({"base": 0.0}), support=()), SegmentationConfig(), "no training images"),
        (
            lambda: inputs({"base": 0.0}, Scenes("train", 3, 0)),
            SegmentationConfig(),
            "3 images with a usable mask; 5 are needed",
        ),
        (lambda: inputs({"base": 0.0}), SegmentationConfig(ignored=(0, 1)), "fewer than two classes"),
        (lambda: inputs({"base": 0.0}), SegmentationConfig(background=3), "no class 3"),
        (
            lambda: inputs({"base": float("nan")}),
            SegmentationConfig(),
            "base: the features of train at block_02:tokens are not",
        ),
    ],
)
def test_what_cannot_be_answered_is_said(given, asked, words):
    with pytest.raises(DataError, match=words):
        segment(given(), asked)


def test_images_without_masks_or_training_split_are_refused_at_once():
    with pytest.raises(DataError, match="no training split"):
        check_masks(VAL, None)
    with pytest.raises(DataError, match="val has no masks"):
        check_masks(SimpleNamespace(name="val", items=[], classes=None, read=None), TRAIN)
    other = Scenes("train", 5, 0)
    other.mask_classes = ("sky", "road")
    with pytest.raises(DataError, match="different classes of pixels"):
        check_masks(VAL, other)
