"""Heads trained and evaluated on the patch features of one checkpoint at one site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from visprobe.analyses.segmentation.data import Labelled, Patches
from visprobe.analyses.segmentation.view import UNCOUNTED
from visprobe.encoders.pixels import Grid
from visprobe.metrics.arrays import Indices
from visprobe.metrics.segmentation.class_tallies import Tallies, macro_recall
from visprobe.metrics.segmentation.head_stack import Kind, Target
from visprobe.metrics.segmentation.patch_head import (
    BATCH,
    HIDDEN,
    PUBLISHED_RATE,
    RATES,
    Batch,
    Floats,
    Head,
    Selected,
    head_logits,
    select_heads,
    train_heads,
)
from visprobe.metrics.segmentation.pixels import count_patches, count_pixels, held_classes, upsampled_classes

Form = Literal["linear", "mlp"]
FORMS: dict[Form, int] = {"linear": 0, "mlp": HIDDEN}
TARGETS: tuple[Target, ...] = ("pixels", "classes")
HELD = 5  # one training image in so many is held out


@dataclass(frozen=True)
class Task:
    """Training and validation data of one checkpoint at one site.

    Attributes:
        train: Patch features of the training images.
        train_labels: Masks of the training images.
        val: Patch features of the validation images.
        val_labels: Masks of the validation images.
        grid: Rows and columns of patches.
        background: Class that counts only in patches that hold no other.
        device: Device to train heads on.
    """

    train: Patches
    train_labels: Labelled
    val: Patches
    val_labels: Labelled
    grid: Grid
    background: int | None
    device: torch.device

    @property
    def batch(self) -> Batch:
        """Function from indices of training images to their features and labels."""
        return lambda images: (self.train(images), self.train_labels.batch(self.grid, images))


class HeadScores(NamedTuple):
    """Predictions of the two heads of one form and seed.

    Attributes:
        pixels: Counts of pixels, from the head trained on shares of pixels.
        patches: Counts of patches, from the head trained on classes held.
        chosen: Both heads, with the rate and round chosen.
    """

    pixels: Tallies
    patches: Tallies
    chosen: tuple[Selected, Selected]


def found_by(task: Task, forms: Sequence[Form], seed: int, least_steps: int | None = None) -> dict[Form, HeadScores]:
    """Train heads of all `forms`, choosing rate and round on held-out training images, and evaluate them."""
    fit, held = split(len(task.train_labels.ids), seed)
    kinds = [Kind(FORMS[form], target, rate) for form in forms for target in TARGETS for rate in RATES[FORMS[form]]]
    how: dict[str, Any] = {"background": task.background, "device": task.device, "least_steps": least_steps}
    best = select_heads(task.batch, fit, held, kinds, seed=seed, **how)
    return {form: _tried(task, best[FORMS[form], "pixels"], best[FORMS[form], "classes"]) for form in forms}


def recall_by_round(task: Task, seed: int, least_steps: int | None = None) -> list[Tallies]:
    """Train one two-layer head on all training images, as published; return its patches after each round."""
    images = np.arange(len(task.train_labels.ids))
    kinds = [Kind(HIDDEN, "classes", PUBLISHED_RATE)]
    how: dict[str, Any] = {"background": task.background, "device": task.device, "least_steps": least_steps}
    rounds = train_heads(task.batch, images, kinds, seed=seed, **how)
    return [_patches(task, heads[0]) for heads in rounds]


def best_round(rounds: Sequence[Tallies]) -> int:
    """Return the round of highest recall on the very images that it is reported on."""
    return int(np.argmax([macro_recall(one).value for one in rounds]))


def split(images: int, seed: int) -> tuple[Indices, Indices]:
    """Split indices into training images and held-out ones: one in five, at least one."""
    order = np.random.default_rng(seed).permutation(images)
    held = max(1, images // HELD)
    return np.sort(order[held:]), np.sort(order[:held])


def classes_of_pixels(task: Task, head: Head, image: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the class that `head` predicts at every pixel of one image, int64 of shape `size`."""
    return upsampled_classes(_logits(task, head, np.array([image]))[0], size)


def every_class(labelled: Labelled, grid: Grid, background: int | None) -> Tallies:
    """Count patches as if every class were predicted for every patch."""
    truth = _truth(labelled, grid, background, np.arange(len(labelled.ids)))
    return count_patches(np.ones_like(truth), truth)


def one_class(labelled: Labelled, number: int) -> Tallies:
    """Count pixels as if every pixel were predicted to be of one class."""
    truth = np.stack([np.bincount(w[w != UNCOUNTED], minlength=_classes(labelled)) for w in labelled.windows])
    predicted = np.zeros_like(truth)
    predicted[:, number] = truth.sum(1)
    return Tallies(np.minimum(predicted, truth), predicted, truth)


def _tried(task: Task, pixels: Selected, classes: Selected) -> HeadScores:
    counted: list[Tallies] = []
    for images in _batches(len(task.val_labels.ids)):
        windows = [task.val_labels.windows[image] for image in images]
        counted.append(count_pixels(_logits(task, pixels.head, images), windows, UNCOUNTED)[0])
    return HeadScores(_joined(counted), _patches(task, classes.head), (pixels, classes))


def _patches(task: Task, head: Head) -> Tallies:
    counted = []
    for images in _batches(len(task.val_labels.ids)):
        truth = _truth(task.val_labels, task.grid, task.background, images)
        counted.append(count_patches(_logits(task, head, images) > 0, truth))
    return _joined(counted)


def _logits(task: Task, head: Head, images: Indices) -> Floats:
    flat = head_logits(head, task.val(images))
    return flat.reshape(len(images), *task.grid, -1)


def _truth(labelled: Labelled, grid: Grid, background: int | None, images: Indices) -> NDArray[np.bool_]:
    return held_classes(labelled.batch(grid, images), background).reshape(len(images), *grid, -1)


def _batches(images: int) -> Iterator[Indices]:
    return (np.arange(start, min(start + BATCH, images)) for start in range(0, images, BATCH))


def _joined(parts: Sequence[Tallies]) -> Tallies:
    return Tallies(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _classes(labelled: Labelled) -> int:
    return int(next(iter(labelled.counts.values()))[0].shape[1])
