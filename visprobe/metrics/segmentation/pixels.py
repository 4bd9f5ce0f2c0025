"""Dense prediction from patch tokens: patch logits to pixels, masks to patch labels, and counts of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visprobe.metrics.segmentation.class_tallies import Counts, Tallies

Mask = NDArray[np.integer]

IGNORED = 255  # the usual label of pixels that do not count
_NUMBERS = 2**23  # logits of pixels held at once: 34 MB in float32


def count_pixels(logits: ArrayLike, masks: Sequence[Mask], ignored: int = IGNORED) -> tuple[Tallies, Counts]:
    """Enlarge patch logits to the size of each mask and count the classes of the pixels, in one pass.

    Args:
        logits: Patch logits in raster order, float32 or float64, shape (n, h, w, classes).
        masks: Class of each pixel, n integer arrays of shape (H, W) of any sizes, or one of shape (n, H, W).
        ignored: Label of pixels that do not count.

    Returns:
        Counts of each image, and the confusion matrix of all, int64 of shape (classes, classes): rows are true
        classes, columns predicted ones. Of equal logits the smaller class is predicted.

    Raises:
        ValueError: If shapes do not fit, a logit is not finite, or a mask holds another label.
    """
    array = np.asarray(logits)
    if array.ndim != 4 or len(array) != len(masks) or not np.isfinite(array).all():
        raise ValueError(f"finite logits (n, h, w, classes) and n masks are needed: {array.shape}, {len(masks)} masks")
    classes = array.shape[3]
    confusion = np.zeros((classes, classes), dtype=np.int64)
    counts = np.zeros((3, len(array), classes), dtype=np.int64)
    for i, (patches, mask) in enumerate(zip(array, masks, strict=True)):
        own = _confusion(upsampled_classes(patches, mask.shape), _checked(mask, classes, ignored), classes, ignored)
        counts[:, i] = np.diagonal(own), own.sum(0), own.sum(1)
        confusion += own
    return Tallies(*counts), confusion


def upsampled_classes(logits: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the class of the largest logit at every pixel, after bilinear interpolation.

    Args:
        logits: float32 or float64, the dtype of the interpolation, shape (h, w, classes).
        size: Height and width in pixels.

    Returns:
        int64 of the shape `size`.
    """
    down: NDArray[Any] = interpolation(logits.shape[0], size[0]).astype(logits.dtype)
    across: NDArray[Any] = interpolation(logits.shape[1], size[1]).astype(logits.dtype)
    found = np.empty(size, dtype=np.int64)
    step = max(1, _NUMBERS // (size[1] * logits.shape[2]))
    for start in range(0, size[0], step):
        # In bands: all logits of a large image at once would be GBs.
        rows = np.tensordot(down[start : start + step], logits, 1)
        found[start : start + step] = np.matmul(across, rows).argmax(-1)
    return found


def interpolation(source: int, target: int) -> NDArray[np.float64]:
    """Return weights of linear interpolation from `source` to `target` points, float64 (target, source).

    Point i lies at (i + 1/2) source / target - 1/2 of the source, clipped to its ends: what torch does with
    `align_corners=False`, without smoothing where the target is smaller.
    """
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    before = np.minimum(place.astype(np.int64), max(source - 2, 0))
    weights = np.zeros((target, source))
    weights[np.arange(target), before] = 1 - (place - before)
    weights[np.arange(target), np.minimum(before + 1, source - 1)] += place - before
    return weights


def patch_counts(mask: Mask, grid: tuple[int, int], classes: int, ignored: int = IGNORED) -> NDArray[np.int64]:
    """Count the pixels of each class in each patch.

    Args:
        mask: Class of each pixel, integers of shape (H, W), H and W not smaller than the grid.
        grid: Patches down and across; pixel row r of H is in patch row floor(r h / H).
        classes: Number of classes.
        ignored: Label of pixels that do not count.

    Returns:
        int64 of shape (h, w, classes).

    Raises:
        ValueError: If the mask is smaller than the grid or holds another label.
    """
    checked, (h, w) = _checked(mask, classes, ignored), grid
    if mask.shape[0] < h or mask.shape[1] < w:
        raise ValueError(f"a mask of {mask.shape} pixels is smaller than the grid {grid}")
    row, column = (np.arange(size) * cells // size for size, cells in zip(mask.shape, grid, strict=True))
    counted = checked != ignored
    # One bincount over (patch, class) numbers.
    places = ((row[:, None] * w + column) * classes)[counted] + checked[counted].astype(np.int64)
    return np.bincount(places, minlength=h * w * classes).astype(np.int64).reshape(h, w, classes)


def held_classes(counts: NDArray[Any], background: int | None = None) -> NDArray[np.bool_]:
    """Return the classes that have a pixel in each patch, as bools of shape (..., classes).

    Args:
        counts: Pixels of each class in each patch from `patch_counts`, shape (..., classes).
        background: Class that counts only in patches that hold no other.
    """
    held: NDArray[np.bool_] = counts > 0
    if background is not None:
        held[..., background] &= held.sum(-1) == 1
    return held


def patch_labels(
    mask: Mask, grid: tuple[int, int], classes: int, background: int | None = None, ignored: int = IGNORED
) -> NDArray[np.bool_]:
    """Return the classes that have a pixel in each patch of a mask.

    Args:
        mask: Class of each pixel, integers of shape (H, W), H and W not smaller than the grid.
        grid: Patches down and across.
        classes: Number of classes.
        background: Class that counts only in patches that hold no other.
        ignored: Label of pixels that do not count; a patch of nothing else has no class.

    Returns:
        Bool of shape (h, w, classes).

    Raises:
        ValueError: If the mask is smaller than the grid or holds another label.

    Source:
        The "union" labels of the patch segmentation probe of "RL makes MLLMs see better than SFT" (2510.16333),
        appendix E.5; class 0 of ADE20K is its background.
    """
    return held_classes(patch_counts(mask, grid, classes, ignored), background)


def count_patches(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Tallies:
    """Count, for each image and class, the patches that hold it, are predicted to, and both.

    Args:
        predicted: Bool of shape (n, h, w, classes), or (n, patches, classes).
        truth: Bool of the same shape; patches without any class, whose pixels are all ignored, do not count.

    Raises:
        ValueError: If the shapes differ.
    """
    if predicted.shape != truth.shape or truth.ndim < 3:
        raise ValueError(f"predictions of shape {predicted.shape} for labels of shape {truth.shape}")
    said = predicted & truth.any(-1, keepdims=True)
    axes = tuple(range(1, truth.ndim - 1))
    return Tallies(*(part.sum(axes, dtype=np.int64) for part in (said & truth, said, truth)))


def _checked(mask: Mask, classes: int, ignored: int) -> Mask:
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"a mask must hold integers of shape (H, W), got {mask.dtype} of shape {mask.shape}")
    counted = mask[mask != ignored]
    if counted.size and (counted.min() < 0 or counted.max() >= classes):
        raise ValueError(f"a mask holds labels {counted.min()} to {counted.max()}; there are {classes} classes")
    return mask


def _confusion(found: NDArray[np.int64], mask: Mask, classes: int, ignored: int) -> Counts:
    counted = mask != ignored
    pairs = mask[counted].astype(np.int64) * classes + found[counted]
    return np.bincount(pairs, minlength=classes * classes).astype(np.int64).reshape(classes, classes)
