"""Linear probes of what is in a digit scene: what is asked, of which rows of the features, and who answers what."""

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

# In units of features whose dimensions have a variance of 1 in the mean.
CS = tuple(float(c) for c in 10.0 ** np.arange(-4, 3))
_FEWEST = 2  # training images of an answer, one of which chooses C


@dataclass(frozen=True)
class AttributeTarget:
    """One attribute of the images and of the training images: answers, and which rows of the features have one.

    Attributes:
        name: Of the attribute.
        classes: How many answers can be learned.
        quarters: Whether a row is a quarter of an image.
        train: Which rows of the training features have an answer, shape (m,).
        test: Which rows of the features have one, shape (n,).
        answers: Of the training rows, shape (m,), from 0.
        truth: Of the rows, shape (n,); `NONE` for an answer that cannot be learned.
        images: Which image each row is of, shape (n,).
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
    """Who answers what.

    Attributes:
        right: (attribute, place) to checkpoint to whether each answer is right.
        sites: Place ("consumed", "projected", "quarters") to its site.
        wrong: How often each kind of warning came up.
    """

    right: dict[tuple[str, str], dict[str, Bools]] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)


def asked_of(test: FeatureSet, train: FeatureSet, images: ImageSet, support: ImageSet) -> list[AttributeTarget]:
    """Every attribute that can be learned from the training scenes.

    Args:
        test: Features of the scenes asked about, for the order of their ids.
        train: Features of the training scenes, likewise.
        images: The scenes asked about.
        support: The training scenes.

    Raises:
        DataError: If the images are no digit scenes.
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
    number = np.where(learnable, learnable.cumsum() - 1, NONE)  # of each answer among those that can be learned
    train = np.flatnonzero((answers != NONE) & learnable[answers])
    test = np.flatnonzero(truth != NONE)
    if learnable.sum() < 2 or not test.size:
        return None
    kept = int(learnable.sum())
    return AttributeTarget(
        attribute.name, kept, quarters, train, test, number[answers[train]], number[truth[test]], images[test]
    )


def probed(sets: list[FeatureSet], support: list[FeatureSet], asked: list[AttributeTarget], seed: int) -> Probes:
    """Probes of every attribute at every place of every checkpoint.

    Args:
        sets: Features of the scenes asked about, by checkpoint, rows in one order.
        support: Features of the training scenes, rows in one order.
        asked: What is asked.
        seed: Of the part of the training scenes that C is chosen on.

    Raises:
        DataError: If features do not vary, or those of one checkpoint differ in width.
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
    """One row per image, or per quarter of an image."""
    return np.asarray(features.reshape(-1, features.shape[-1]), np.float64)


def _scaled(train: Array, test: Array) -> tuple[Array, Array]:
    mean, spread = train.mean(0), np.sqrt(train.var(0).mean())
    if test.shape[1] != train.shape[1] or spread == 0:
        raise ValueError("features do not vary, or are not as wide as those learned from")
    return (train - mean) / spread, (test - mean) / spread


def _place(request: str) -> str:
    return "quarters" if request.endswith(":quarters") else "projected" if request == "projected" else "consumed"
