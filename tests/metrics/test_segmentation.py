"""Segmentation scores by hand, against torch and scikit-learn, and their jackknife by brute force."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.segmentation import pixels as segmentation
from visprobe.metrics.segmentation.class_tallies import (
    Tallies,
    macro_f1,
    macro_recall,
    mean_iou,
    per_class,
    share_right,
)
from visprobe.metrics.segmentation.pixels import (
    count_patches,
    count_pixels,
    interpolation,
    patch_labels,
    upsampled_classes,
)


@pytest.mark.parametrize(("grid", "size"), [((4, 6), (28, 42)), ((5, 3), (17, 40)), ((1, 1), (3, 4)), ((7, 7), (3, 5))])
def test_interpolation_is_that_of_torch(
    grid: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "_NUMBERS", 200)
    logits = np.random.default_rng(0).standard_normal((*grid, 5))
    ours = np.einsum("Hh,Ww,hwc->HWc", interpolation(grid[0], size[0]), interpolation(grid[1], size[1]), logits)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(logits).permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(ours, theirs, atol=1e-14)  # sums of four float64 of size 1
    np.testing.assert_array_equal(upsampled_classes(logits, size), theirs.argmax(-1))


def test_a_toy_mask_by_hand() -> None:
    found = np.array([[0, 0, 1, 1], [0, 2, 1, 1]])
    mask = np.array([[0, 0, 1, 0], [255, 2, 1, 2]], dtype=np.uint8)
    tallies, confusion = count_pixels(np.eye(4)[found][None], [mask])
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    scores = per_class(tallies)
    np.testing.assert_allclose(scores.iou, [2 / 3, 1 / 2, 1 / 2, np.nan], rtol=1e-15)
    np.testing.assert_allclose(scores.recall, [2 / 3, 1, 1 / 2, np.nan], rtol=1e-15)
    np.testing.assert_allclose(scores.precision, [1, 1 / 2, 1, np.nan], rtol=1e-15)
    np.testing.assert_allclose(scores.f1, [4 / 5, 2 / 3, 2 / 3, np.nan], rtol=1e-15)
    twice = Tallies(*(np.repeat(part, 2, axis=0) for part in tallies))
    assert mean_iou(twice).value == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3, rel=1e-15)
    assert share_right(twice).value == pytest.approx(5 / 7, rel=1e-15)
    assert mean_iou(twice).student.error == 0


def images(n: int = 6, classes: int = 5) -> tuple[NDArray[np.float32], list[NDArray[np.int64]]]:
    """Masks of different sizes, with ignored pixels, one class in a single image; logits of some skill."""
    rng = np.random.default_rng(0)
    masks, logits = [], []
    for i in range(n):
        coarse = rng.integers(0, classes - 1, (3, 4))
        coarse[0, 0] = classes - 1 if i == 2 else coarse[0, 0]
        mask = np.kron(coarse, np.ones((6 + i, 7), dtype=np.int64))
        mask[rng.random(mask.shape) < 0.1] = 255
        masks.append(mask)
        logits.append(2 * np.eye(classes)[coarse] + rng.standard_normal((3, 4, classes)))
    return np.stack(logits).astype(np.float32), masks


def test_all_images_together_are_scored_as_scikit_learn_scores_their_pixels() -> None:
    logits, masks = images()
    tallies, confusion = count_pixels(logits, masks)
    truth = np.concatenate([mask[mask != 255] for mask in masks])
    found = np.concatenate([upsampled_classes(one, m.shape)[m != 255] for one, m in zip(logits, masks, strict=True)])
    np.testing.assert_array_equal(confusion, confusion_matrix(truth, found))
    every: dict[str, Any] = {"average": None, "zero_division": 0.0}
    scores = per_class(tallies)
    for ours, theirs in zip(scores, (precision_score, recall_score, f1_score, jaccard_score), strict=True):
        np.testing.assert_allclose(ours, theirs(truth, found, **every), rtol=1e-14)
    assert mean_iou(tallies).value == pytest.approx(scores.iou.mean(), rel=1e-14)
    assert macro_f1(tallies).value == pytest.approx(scores.f1.mean(), rel=1e-14)
    assert share_right(tallies).value == pytest.approx((truth == found).mean(), rel=1e-14)


@pytest.mark.parametrize("statistic", [mean_iou, macro_recall, macro_f1, share_right])
def test_leaving_one_image_out_by_subtraction_is_counting_the_others(
    statistic: Callable[[Tallies], Replicated],
) -> None:
    logits, masks = images()
    whole = statistic(count_pixels(logits, masks)[0])
    for i in range(len(masks)):
        rest = count_pixels(np.delete(logits, i, 0), masks[:i] + masks[i + 1 :])[0]
        assert whole.without[i] == statistic(rest).value  # the same integers, divided once


def test_patch_labels_by_hand() -> None:
    mask = np.array([[0, 1, 2, 2], [0, 0, 2, 2], [0, 0, 255, 255], [0, 0, 255, 255]])
    held = patch_labels(mask, (2, 2), 3)
    assert held.tolist() == [[[True, True, False], [False, False, True]], [[True, False, False], [False] * 3]]
    suppressed = patch_labels(mask, (2, 2), 3, background=0)
    assert suppressed[0, 0].tolist() == [False, True, False]
    assert suppressed[1, 0].tolist() == [True, False, False]
    # Five pixels in two patches: floor(r 2 / 5) puts three into the first.
    assert patch_labels(np.arange(5)[:, None], (2, 1), 5)[:, 0].tolist() == [
        [True, True, True, False, False],
        [False, False, False, True, True],
    ]


def test_macro_recall_of_patches_does_not_see_false_alarms_and_f1_does() -> None:
    _, masks = images()
    truth = np.stack([patch_labels(mask, (3, 4), 5) for mask in masks])
    everything = count_patches(np.ones_like(truth), truth)
    assert macro_recall(everything).value == 1
    assert macro_f1(everything).value < 0.7
    half = truth & (np.random.default_rng(1).random(truth.shape) < 0.5)
    flat = truth.reshape(-1, 5), half.reshape(-1, 5)
    assert macro_recall(count_patches(half, truth)).value == pytest.approx(recall_score(*flat, average="macro"))
    ignored = truth.copy()
    ignored[0, 0] = False  # four patches without a class: what is predicted there does not count
    assert count_patches(np.ones_like(truth), ignored).predicted[0].tolist() == [8] * 5


def test_what_cannot_be_counted_is_refused() -> None:
    logits, masks = images(2)
    with pytest.raises(ValueError, match="n masks"):
        count_pixels(logits, masks[:1])
    with pytest.raises(ValueError, match="5 classes"):
        count_pixels(logits, [masks[0], masks[1] + 300])
    with pytest.raises(ValueError, match="integers"):
        count_pixels(logits, [mask.astype(float) for mask in masks])
    with pytest.raises(ValueError, match="smaller than the grid"):
        patch_labels(masks[0], (100, 2), 5)
    with pytest.raises(ValueError, match="for labels"):
        count_patches(np.ones((1, 2, 2, 3), bool), np.ones((1, 2, 2, 4), bool))
    with pytest.raises(ValueError, match="two of the images"):
        mean_iou(count_pixels(logits[:1], masks[:1])[0])
