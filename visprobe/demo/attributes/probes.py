"""Linear probes of attributes of digit scenes, trained at every site of every checkpoint."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.core.refusals import naming
from visprobe.data.image_set import ImageSet
from visprobe.demo.attributes.targets import (
    ATTRIBUTES,
    NONE,
    QUARTER_ATTRIBUTES,
    Attribute,
    QuarterAttribute,
    labels_of,
    scenes_of,
)
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Array, Bools, Labels
from visprobe.metrics.classifiers.logistic import NotConverged
from visprobe.metrics.classifiers.select_c import AtBoundary, select_c

# For features scaled to a mean variance of 1 per dimension.
CS = tuple(float(c) for c in 10.0 ** np.arange(-4, 3))
_FEWEST = 2  # training images per answer: one to fit, one to choose C


@dataclass(frozen=True)
class AttributeTarget:
    """Answers to one attribute for test and training images, and the feature rows that have one.

    Attributes:
        name: Name of the attribute.
        classes: Number of answers that can be learned.
        quarters: Whether a feature row is a quarter of an image.
        train: Indices of training feature rows with an answer, int64 of shape (m,).
        test: Indices of test feature rows with an answer, int64 of shape (n,).
        answers: Answers of the training rows, int64 of shape (m,), from 0.
        truth: Answers of the test rows, int64 of shape (n,); `NONE` for an answer that cannot be learned.
        images: Image of each test row, int64 of shape (n,).
    """

    name: str
    classes: int
    quarters: bool
    train: Labels
    test: Labels
    answers: Labels
    truth: Labels
    images: Labels


@dataclass
class Probes:
    """Correctness of all probes.

    Attributes:
        right: Correctness of each answer, bool of shape (n,), by (attribute, place) and checkpoint.
        sites: Site by place ("consumed", "projected", "quarters").
        wrong: Number of warnings by kind.
    """

    right: dict[tuple[str, str], dict[str, Bools]] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)


def asked_of(test: FeatureSet, train: FeatureSet, images: ImageSet, support: ImageSet) -> list[AttributeTarget]:
    """Collect every attribute that can be learned from the training scenes.

    Args:
        test: Features of the test scenes, for the order of their ids.
        train: Features of the training scenes, for the order of their ids.
        images: Test scenes.
        support: The training scenes.

    Raises:
        DataError: If the images are not digit scenes.
    """
    shown, learned = scenes_of(images), scenes_of(support)
    scenes, training = [shown[item] for item in test.item_ids], [learned[item] for item in train.item_ids]
    found = []
    for attribute in (*ATTRIBUTES, *QUARTER_ATTRIBUTES):
        quarters = isinstance(attribute, QuarterAttribute)
        one = _ask(attribute, labels_of(attribute, training), labels_of(attribute, scenes), quarters)
        if one is not None:
            found.append(one)
    return found


def _ask(
    attribute: Attribute | QuarterAttribute, answers: Labels, truth: Labels, quarters: bool
) -> AttributeTarget | None:
    images = np.arange(len(truth)).repeat(truth[0].size)
    answers, truth = answers.ravel(), truth.ravel()
    counts = np.bincount(answers[answers != NONE], minlength=len(attribute.classes))
    learnable = counts >= _FEWEST
    number = np.where(learnable, learnable.cumsum() - 1, NONE)  # renumbers the learnable answers from 0
    train = np.flatnonzero((answers != NONE) & learnable[answers])
    test = np.flatnonzero(truth != NONE)
    if learnable.sum() < 2 or not test.size:
        return None
    kept = int(learnable.sum())
    return AttributeTarget(
        attribute.name, kept, quarters, train, test, number[answers[train]], number[truth[test]], images[test]
    )


def probed(sets: list[FeatureSet], support: list[FeatureSet], asked: list[AttributeTarget], seed: int) -> Probes:
    """Train and test probes of every attribute at every place of every checkpoint.

    Args:
        sets: Features of the test scenes, by checkpoint, rows in one order.
        support: Features of the training scenes, by checkpoint, rows in one order.
        asked: Attributes to probe.
        seed: Seed of the part of the training scenes that C is chosen on.

    Raises:
        DataError: If features do not vary, or their widths differ within a checkpoint.
    """
    probes = Probes()
    learned = {features.encoder: features for features in support}
    for features in sets:
        for request in features.sites:
            place = _place(request)
            probes.sites.setdefault(place, request.partition(":")[0])
            with naming(features, request, "a probe"):
                train, test = _scaled(
                    _as_rows(learned[features.encoder].sites[request]), _as_rows(features.sites[request])
                )
                for one in (one for one in asked if one.quarters == (place == "quarters")):
                    right = _right(train, test, one, seed, probes.wrong)
                    probes.right.setdefault((one.name, place), {})[features.encoder] = right
    return probes


def _right(train: Array, test: Array, one: AttributeTarget, seed: int, wrong: Counter[str]) -> Bools:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", NotConverged)
        warnings.simplefilter("always", AtBoundary)
        fit = select_c(train[one.train], one.answers, CS, seed=seed).fit
    wrong.update(warning.category.__name__ for warning in caught)
    right: Bools = fit.classes(test[one.test]) == one.truth
    return right


def _as_rows(features: NDArray[np.floating]) -> Array:
    """Reshape features to one row per image, or per quarter of an image."""
    return np.asarray(features.reshape(-1, features.shape[-1]), np.float64)


def _scaled(train: Array, test: Array) -> tuple[Array, Array]:
    # One scale for all dimensions keeps their relative variances; both sets use the training statistics.
    mean, spread = train.mean(0), np.sqrt(train.var(0).mean())
    if test.shape[1] != train.shape[1] or spread == 0:
        raise ValueError("features do not vary, or are not as wide as those learned from")
    return (train - mean) / spread, (test - mean) / spread


def _place(request: str) -> str:
    return "quarters" if request.endswith(":quarters") else "projected" if request == "projected" else "consumed"
