"""Accuracy of class prototypes of a few labelled images per class, over several draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visprobe.analyses.accuracy.task import Task, check_task, make_task
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import Paired, by_key, difference_rows, value_rows
from visprobe.analyses.core.refusals import naming
from visprobe.data.image_set import ImageSet
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import read_sites
from visprobe.metrics.arrays import Bools
from visprobe.metrics.classifiers.label_draws import PER_CLASS, label_draws
from visprobe.metrics.classifiers.prototypes import ranks_from_support
from visprobe.metrics.intervals.crossed import crossed_mean
from visprobe.metrics.intervals.estimate import FRACTION
from visprobe.results.presentation import Presentation
from visprobe.results.result import Estimate, Result, Row

QUESTION = "How well does an encoder tell classes apart from few labelled images of each?"
DRAWS = 5


def few_label_accuracy(query: Sequence[FeatureSet], support: Sequence[FeatureSet]) -> Result:
    """Measure top-1 accuracy of prototypes of 1, 5, 10 and 50 images per class, mean over five draws.

    Args:
        query: Features of the labelled images to classify, one set per checkpoint; the first is the base.
        support: Features of other labelled images, from which the draws are made: the same for every checkpoint.

    Returns:
        Rows "top1_of_1" to "top1_of_50" and their paired differences for each pair of checkpoints. The intervals are
        for other draws from these support images and other query images. A size that some class has no more
        images than is left out with a warning.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all; if a class has one support image.
    """
    task = make_task(query, support)
    assert task.support_labels is not None  # there is a support
    least = int(np.bincount(task.support_labels).min())
    sizes = [size for size in PER_CLASS if size < least]
    if not sizes:
        raise DataError(
            f"{support[0].images} has a class of a single image: there is nothing to draw",
            hint="Give two images per class or more, or leave this analysis out.",
        )
    rows: list[Row] = []
    right = {size: by_key(_right(task, size), f"top1_of_{size}") for size in sizes}
    for found in right.values():
        rows += value_rows({key: crossed_mean(one) for key, one in found.items()}, task.baselines)
    names = [features.encoder for features in query if not features.baseline]
    for found in right.values():
        rows += difference_rows(found, names, crossed_difference)
    warnings = [*task.warnings()]
    if lacking := [size for size in PER_CLASS if size not in sizes]:
        warnings.append(f"{', '.join(map(str, lacking))} per class left out: a class has {least} images")
    settings = {**task.settings(), "draws": DRAWS, "per_class_drawn": sizes}
    return Result("few_labels", QUESTION, tuple(rows), settings, tuple(warnings))


def _right(task: Task, size: int) -> dict[str, dict[str, Bools]]:
    """Return by checkpoint and site which images are right under each draw, bool of shape (draws, n)."""
    assert task.support_labels is not None
    labels = task.support_labels
    draws = label_draws(labels, [size], DRAWS)[size]
    found: dict[str, dict[str, Bools]] = {}
    for features in task.query:
        at = found.setdefault(features.encoder, {})
        for site in features.sites:
            rows, pool = features.sites[site], task.support[features.encoder].sites[site]
            with naming(features, site, "prototype accuracy"):
                at[site] = np.stack([ranks_from_support(rows, task.labels, pool[d], labels[d]) == 0 for d in draws])
    return found


def crossed_difference(pair: Paired[Bools]) -> Estimate:
    """Compute the paired difference of images right under each draw, both bool of shape (draws, n)."""
    return crossed_mean(pair.after.astype(np.float64) - pair.before, scale=FRACTION.of_differences)


def check_support(images: ImageSet, support: ImageSet | None) -> None:
    """Refuse images without classes, or without a second split to draw from.

    Raises:
        DataError: If classes or the second split are missing.
    """
    check_task(images, support)
    if support is None:
        raise DataError(f"{images.name} has no train split", hint="Draws of labelled images need train/ and val/.")


def _run(inputs: Inputs) -> Result:
    if not inputs.support:
        raise DataError(f"{inputs.base.images} has no train split", hint="Draws of labelled images need one.")
    return few_label_accuracy(inputs.all, inputs.support)


FEW_LABELS = Analysis(
    name="few_labels",
    question=QUESTION,
    needs=read_sites,
    run=_run,
    baselines="untrained",
    support=True,
    check=check_support,
    presentation=Presentation(
        titles={
            f"top1_of_{n}": f"Top-1 accuracy of prototypes of {n} image{'s' * (n > 1)} per class" for n in PER_CLASS
        },
        place=72,
    ),
)
