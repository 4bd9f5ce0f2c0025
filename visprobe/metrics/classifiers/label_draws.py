"""Draws of a few labelled images per class, and labels permuted once for control tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visprobe.metrics.arrays import Indices, Labels

PER_CLASS = (1, 5, 10, 50)


def label_draws(labels: Labels, per_class: Sequence[int] = PER_CLASS, seeds: int = 5) -> dict[int, list[Indices]]:
    """Draw training images for few-label probes: equally many of each class, smaller draws inside larger ones.

    A draw depends only on the seed and the order of the images of each class, so that every checkpoint and site
    is probed with the same images.

    Args:
        labels: Class of each training image, int64 of shape (n,).
        per_class: Sizes of the draws, in images of each class.
        seeds: Number of draws of each size, from seeds 0, 1, ...

    Returns:
        For each size one array of sorted indices for each seed; within a seed those of a smaller size are among
        those of a larger one.

    Raises:
        ValueError: If a class has fewer images than asked for, or a number is below 1.
    """
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    if not per_class or min(per_class) < 1 or seeds < 1:
        raise ValueError(f"draws must be of 1 or more per class, got {list(per_class)} and {seeds} seeds")
    if counts[present].min() < max(per_class):
        raise ValueError(f"{max(per_class)} images per class are asked for; a class has {counts[present].min()}")
    orders = [_within_class(labels, present, seed) for seed in range(seeds)]
    return {size: [np.flatnonzero(place < size) for place in orders] for size in per_class}


def control_labels(labels: Labels, seed: int = 0) -> Labels:
    """Permute the labels over the images: a probe that learns them shows its own capacity, not the features'.

    Args:
        labels: Class of each image, int64 of shape (n,).
        seed: Seed of the permutation.

    Returns:
        int64 of shape (n,), with the same number of images per class.

    Source:
        After Hewitt & Liang 2019 (1909.03368), section 2: a control task assigns classes at random.
    Differs from source:
        There each type of word gets a class; an image occurs once, so held-out accuracy is at chance and only
        accuracy on the training images shows capacity.
    """
    return np.random.default_rng(seed).permutation(labels)


def _within_class(labels: Labels, present: Indices, seed: int) -> Indices:
    """Return the place of each image in a random order of its class, shape (n,)."""
    rng, place = np.random.default_rng(seed), np.empty(len(labels), dtype=np.intp)
    for one in present:
        own = np.flatnonzero(labels == one)
        place[own] = rng.permutation(len(own))
    return place
