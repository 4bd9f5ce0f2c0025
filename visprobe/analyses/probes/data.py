"""Training and test data of a probe: two splits, or two parts of one; classes or targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visprobe.analyses.accuracy.overlap import Overlap, overlap, overlap_settings, overlap_warnings
from visprobe.analyses.accuracy.task import Task, make_task, some
from visprobe.analyses.core.analysis import Inputs, Sets
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import HasTargets, Targets
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet, with_rows
from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.classifiers.select_c import stratified_split

_HELD_OUT = 0.5  # share of a single split


@dataclass(frozen=True)
class TargetTask:
    """Targets to predict from features.

    Attributes:
        targets: Targets of the images of `query`; values float64 of shape (n, targets), NaN where missing.
        query: Test sets, rows in one order; the first is the base's.
        support: Training sets by checkpoint, rows in one order.
        support_values: Targets of the training images, float64 of shape (m, targets), NaN where missing.
        protocol: Origin of both, in words.
        notes: Warnings about targets left out.
    """

    targets: Targets
    query: tuple[FeatureSet, ...]
    support: Mapping[str, FeatureSet]
    support_values: Array
    protocol: str
    notes: tuple[str, ...]

    @property
    def shared(self) -> Overlap:
        """Images in both splits."""
        return overlap(self.query[0], self.support[self.query[0].encoder])

    def settings(self) -> dict[str, Any]:
        """Return the settings that every number depends on."""
        base = self.query[0]
        return {
            **common_settings(base),
            "sites": list(base.sites),
            "n_support": len(self.support_values),
            "protocol": self.protocol,
            "kind": self.targets.kind,
            "targets": list(self.targets.names),
            **overlap_settings(self.shared),
        }

    def warnings(self) -> list[str]:
        """Return the warnings of the task."""
        base = self.query[0]
        return [*self.notes, *overlap_warnings(self.shared, base, self.support[base.encoder])]


def class_task(inputs: Inputs) -> tuple[Task, str]:
    """Return the classification task, and the origin of its training images in words.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all checkpoints; if a class has one
            training image.
    """
    query, support, protocol = inputs.all, inputs.support, "trained on the train split"
    if not support:
        labels = make_task(query, None).labels  # refuses what cannot be split
        query, support = _halves(query, stratified_split(labels, _HELD_OUT, inputs.seed))
        protocol = f"one split: half of each class is trained on, by seed {inputs.seed}"
    task = make_task(query, support)
    assert task.support_labels is not None  # there is a support
    counts = np.bincount(task.support_labels)
    if counts.min() < 2:
        few = [name for name, count in zip(task.names, counts, strict=True) if count < 2]
        raise DataError(
            f"{support[0].images} has fewer than two training images of {some(few)}: a probe cannot choose C",
            hint="Give two training images of each class or more.",
        )
    refuse_fewer(query[0], 4, "a probe")
    return task, protocol


def target_task(inputs: Inputs, name: str) -> TargetTask:
    """Return the targets to predict, without those that do not vary over the images.

    Raises:
        DataError: If no target is left, or there are too few images.
    """
    refuse_fewer(inputs.base, 8, "a probe of targets")
    query, support = inputs.all, inputs.support
    targets, protocol = _values(inputs.base, inputs.images, name), "trained on the train split"
    if support:
        learned = _values(support[0], inputs.support_images, name)
    else:
        n = len(inputs.base.item_ids)
        order = np.random.default_rng(inputs.seed).permutation(n)
        kept, out = np.sort(order[: n // 2]), np.sort(order[n // 2 :])
        query, support = _halves(align(query), (kept, out))
        targets, learned = targets.rows(out.tolist()), targets.rows(kept.tolist())
        protocol = f"one split: half of the images are trained on, by seed {inputs.seed}"
    fits = [_varies(learned.values[:, k]) and _varies(targets.values[:, k]) for k in range(len(targets.names))]
    left_out = [one for one, good in zip(targets.names, fits, strict=True) if not good]
    if not any(fits):
        raise DataError(
            f"{inputs.base.images}: {some(left_out)} does not vary over the images, or is missing everywhere",
            hint="Name another target, or give more images.",
        )
    notes = [f"left out, for they do not vary over the images or are missing: {some(left_out)}"] if left_out else []
    names = tuple(one for one, good in zip(targets.names, fits, strict=True) if good)
    by_name = {features.encoder: features for features in align(support)}
    return TargetTask(replace(targets, names=names, values=targets.values[:, fits]), tuple(align(query)), by_name,
                      learned.values[:, fits], protocol, tuple(notes))  # fmt: skip


def targets_of(images: ImageSet | None, name: str) -> Targets:
    """Return the targets that `name` asks for.

    Raises:
        DataError: If there are none of that kind or name, or numbers are infinite.
    """
    if not isinstance(images, HasTargets):
        where = "these images" if images is None else images.name
        raise DataError(f"{where} have no targets", hint="Give a table of labels or numbers with the images.")
    targets = images.targets
    if name in (targets.kind, "auto"):
        chosen = targets
    elif name in targets.names:
        at = targets.names.index(name)
        chosen = replace(targets, names=(name,), values=targets.values[:, at : at + 1])
    else:
        there = f"{targets.kind} ({', '.join(targets.names)})"
        raise DataError(f"{images.name} has no targets {name!r}", hint=f"It has {there}.")
    if np.isinf(chosen.values).any() or (
        chosen.kind == "labels" and not np.isin(_present(chosen.values), (0, 1)).all()
    ):
        raise DataError(
            f"{images.name} has targets that are no {chosen.kind}", hint="Labels are 0 or 1; numbers finite."
        )
    return chosen


def _values(features: FeatureSet, images: ImageSet | None, name: str) -> Targets:
    """Return the targets of the rows of `features`, from which unreadable images are missing."""
    targets = targets_of(images, name)
    assert images is not None  # targets_of refuses
    place = {item.id: row for row, item in enumerate(images.items)}
    if lacking := [item for item in features.item_ids if item not in place]:
        raise DataError(f"{lacking[0]} of {features.images} has no targets", hint="Give every image its targets.")
    return targets.rows([place[item] for item in features.item_ids])


def _varies(column: Array) -> bool:
    return len(np.unique(_present(column))) > 1


def _present(values: Array) -> Array:
    return values[~np.isnan(values)]


def _halves(sets: Sequence[FeatureSet], parts: tuple[Indices, Indices]) -> tuple[Sets, Sets]:
    """Return query and support: all sets in the order of the first, cut in two."""
    kept, out = parts
    whole = align(sets)
    return tuple(with_rows(one, out) for one in whole), tuple(with_rows(one, kept) for one in whole)
