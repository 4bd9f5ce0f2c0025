"""Classification task: labelled images, classes that can be learned, and training images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.accuracy.overlap import duplicates, overlap, overlap_settings, overlap_warnings
from visprobe.analyses.core.differences import kinds_of
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import no_classes
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Labels
from visprobe.results.result import BaselineKind

FEW = 3  # training images of a class; fewer make a warning


@dataclass(frozen=True)
class Task:
    """Classification task, its labels renumbered to the classes that can be learned.

    Attributes:
        names: Names of the classes.
        query: Sets to classify, rows in one order; the first is the base's.
        labels: Class of each query image, int64 of shape (n,).
        support: Training sets by checkpoint, rows in one order; empty for leave-one-out.
        support_labels: Class of each support image, int64 of shape (m,), or None for leave-one-out.
    """

    names: tuple[str, ...]
    query: tuple[FeatureSet, ...]
    labels: Labels
    support: Mapping[str, FeatureSet]
    support_labels: Labels | None

    @property
    def base(self) -> FeatureSet:
        """Query images under the base."""
        return self.query[0]

    @property
    def baselines(self) -> dict[str, BaselineKind]:
        """Kind of each baseline by its name."""
        return kinds_of(features for features in self.query if features.baseline)

    def settings(self) -> dict[str, Any]:
        """Return the settings that every accuracy of the task depends on."""
        support = next(iter(self.support.values()), None)
        shared = overlap(self.base, support) if support else duplicates(self.base)
        return {
            **common_settings(self.base),
            "sites": list(self.base.sites),
            "protocol": "leave-one-out" if support is None else "disjoint support",
            "support": None if support is None else support.images,
            "n_support": None if support is None else len(support.item_ids),
            "classes": len(self.names),
            "chance": 1 / len(self.names),
            **overlap_settings(shared),
        }

    def warnings(self) -> Iterator[str]:
        """Yield warnings for every accuracy of the task."""
        for features in self.query[1:]:
            if features.consumed != self.base.consumed:
                yield (
                    f"{features.encoder} is read at {features.consumed}, {self.base.encoder} at {self.base.consumed}; "
                    "differences are taken at the same site"
                )
        support = next(iter(self.support.values()), None)
        shared = overlap(self.base, support) if support else duplicates(self.base)
        yield from overlap_warnings(shared, self.base, support or self.base)
        counts = np.bincount(self.labels if self.support_labels is None else self.support_labels)
        few = [name for name, count in zip(self.names, counts, strict=True) if count < FEW]
        if few:
            yield f"{some(few)}: fewer than {FEW} images to learn from; what is said of them is of those pictures"
        asked = set(self.labels.tolist())
        unasked = [name for number, name in enumerate(self.names) if number not in asked]
        if unasked:
            yield f"{some(unasked)}: no image in {self.base.images}; learned all the same, and may be answered wrongly"


def make_task(query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None) -> Task:
    """Make the task of labelled images, the same for every checkpoint.

    Args:
        query: Features of the labelled images to classify, one set per checkpoint; the first is the base.
        support: Features of other labelled images to learn from, for the same checkpoints in any order; None or
            empty for leave-one-out within the query images.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all checkpoints; if a class has no
            support, or fewer than two images for leave-one-out; if a feature is not finite.
    """
    query = align(query)
    refuse_fewer(query[0], 2, "an accuracy")
    return _disjoint(query, align(support)) if support else _leave_one_out(query)


def check_classes(images: ImageSet, support: ImageSet | None) -> None:
    """Refuse images without classes.

    Raises:
        DataError: If they have none.
    """
    if images.classes is None:
        raise DataError(no_classes(images), hint="Accuracy needs a folder per class, a label column or --labels.")


def check_task(images: ImageSet, support: ImageSet | None) -> None:
    """Refuse images whose classes cannot be learned, before any image is read.

    Raises:
        DataError: If there are fewer than two classes, or one has no training image.
    """
    check_classes(images, support)
    if support is None or support.classes is None:
        _check_two_classes(_occurring(images), images.name)
    else:
        _check_support(_occurring(support), support.name, _occurring(images), images.name)


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _leave_one_out(query: Sequence[FeatureSet]) -> Task:
    class_of = _class_of_each(query)
    names = _in_label_order(query[0])
    _check_two_classes(names, query[0].images)
    single = [name for name in names if int((class_of == name).sum()) < 2]
    if single:
        raise DataError(
            f"{query[0].images}: leave-one-out needs two images of each class; {some(single)} has one",
            hint="Use more images per class, or give a separate support set.",
        )
    return Task(names, tuple(query), _number(class_of, names), {}, None)


def _disjoint(query: Sequence[FeatureSet], support: Sequence[FeatureSet]) -> Task:
    class_of, support_class_of = _class_of_each(query), _class_of_each(support)
    names = _in_label_order(support[0])
    _check_support(names, support[0].images, class_of.tolist(), query[0].images)
    shared = set(query[0].item_ids) & set(support[0].item_ids)
    if query[0].images == support[0].images and shared:
        raise DataError(
            f"{len(shared)} images of {query[0].images} are in the support set too, {min(shared)} among them",
            hint="Take other images for the support, or leave it out: then leave-one-out is used.",
        )
    by_name = {features.encoder: features for features in support}
    for features in query:
        _check_sites(features, by_name.get(features.encoder))
    return Task(names, tuple(query), _number(class_of, names), by_name, _number(support_class_of, names))


def _check_sites(query: FeatureSet, support: FeatureSet | None) -> None:
    lacking = [site for site in query.sites if support is None or site not in support.sites]
    if lacking:
        raise DataError(
            f"{query.encoder}: no support features at {some(lacking)}",
            hint="Extract support and query features for the same checkpoints and sites.",
        )


def _check_support(names: tuple[str, ...], learned: str, asked: Sequence[str], tried: str) -> None:
    _check_two_classes(names, learned)
    without = sorted(set(asked) - set(names))
    if without:
        raise DataError(
            f"{learned} has no image of {some(without)}, which {tried} asks for",
            hint="Support and query must have the same classes; take them from the same data set.",
        )


def _occurring(images: ImageSet) -> tuple[str, ...]:
    """Return the classes that have images."""
    assert images.classes is not None  # asked first
    labels = sorted({item.label for item in images.items if item.label is not None})
    return tuple(images.classes[label] for label in labels)


def _check_two_classes(names: tuple[str, ...], images: str) -> None:
    if len(names) < 2:
        raise DataError(
            f"{images} has a single class, {some(names)}: any encoder would score 100 %",
            hint="Give an image set with at least two classes, one folder each.",
        )


def _class_of_each(sets: Sequence[FeatureSet]) -> NDArray[np.str_]:
    """Return the class name of each image: support and query may number the same classes differently."""
    for features in sets:
        if features.labels is None:
            raise DataError(
                f"{features.images} has no labels, so accuracy cannot be measured on it",
                hint="Sort the images into one folder per class, or leave this analysis out.",
            )
    names = np.array([_name(sets[0], int(label)) for label in _labels(sets[0])], dtype=np.str_)
    for features in sets[1:]:
        if not np.array_equal(_labels(features), _labels(sets[0])):
            raise DataError(
                f"{features.encoder} and {sets[0].encoder} have different labels for the images of {features.images}",
                hint="Extract the features of all checkpoints from the same image set in one run.",
            )
    return names


def _labels(features: FeatureSet) -> Labels:
    assert features.labels is not None  # checked by _class_of_each
    return features.labels


def _in_label_order(features: FeatureSet) -> tuple[str, ...]:
    return tuple(_name(features, int(label)) for label in np.unique(_labels(features)))


def _name(features: FeatureSet, label: int) -> str:
    return features.classes[label] if features.classes else str(label)


def _number(class_of: NDArray[np.str_], names: tuple[str, ...]) -> Labels:
    index = {name: number for number, name in enumerate(names)}
    return np.array([index[str(name)] for name in class_of], dtype=np.int64)
