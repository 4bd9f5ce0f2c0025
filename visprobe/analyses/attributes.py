"""What of a scene can be read linearly: which digit, in which colour, where, and how many?"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.accuracy import needs_read, paired_difference
from visprobe.analyses.analysis import Analysis, Inputs
from visprobe.analyses.estimates import naming, refuse_fewer
from visprobe.analyses.pairing import align
from visprobe.analyses.probe_tests import p_value
from visprobe.analyses.result import Estimate, Result, Role, Row
from visprobe.data.attributes import (
    ATTRIBUTES,
    NONE,
    QUARTER_ATTRIBUTES,
    Attribute,
    Labels,
    QuarterAttribute,
    labels_of,
    scenes_of,
)
from visprobe.data.image_set import ImageSet
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.clustered import clustered_mean
from visprobe.metrics.intervals import wilson
from visprobe.metrics.jackknife import jackknife, replicate_mean
from visprobe.metrics.logistic import NotConverged
from visprobe.metrics.multiplicity import holm
from visprobe.metrics.select_c import AtBoundary, select_c

QUESTION = "Which details of a scene can be read linearly from the encoder's features, and better than before?"
# In units of features whose dimensions have a variance of 1 in the mean.
CS = tuple(float(c) for c in 10.0 ** np.arange(-4, 3))
MAJORITY = "most frequent answer"
_FEWEST = 2  # training images of an answer, one of which chooses C

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Asked:
    """One attribute of the images and of the training images: answers, and which rows of the features have one.

    `train` and `test` index the rows; `images` says of which image each test row is.
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
class _Probes:
    """Who answers what: (attribute, place) to checkpoint to whether each answer is right."""

    right: dict[tuple[str, str], dict[str, NDArray[np.bool_]]] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)


def attributes(inputs: Inputs) -> Result:
    """Linear probes of the attributes of digit scenes, trained on the training scenes and tried on the others.

    Args:
        inputs: Features of `DigitScenes` with their training split; `images` and `support_images` are the scenes.

    Returns:
        Rows "attribute_consumed/<attribute>" and "attribute_projected/<attribute>" from the mean over all tokens, and
        "attribute_quarters/<attribute>" from the mean over the tokens of a quarter of the grid, one probe for all four
        quarters: accuracy with Wilson intervals, for quarters with t intervals in which the quarters of an image go
        together. As floors the untrained encoder and the most frequent answer of the training scenes. Paired
        differences between checkpoints with Newcombe (for quarters jackknife) intervals; their tests, with Holm's p
        over the attributes of a pair and place, are in the settings.

    Raises:
        DataError: If images cannot be paired, a feature is not finite, or there are too few scenes to learn from.
    """
    sets, support = align(inputs.all), align(inputs.support)
    refuse_fewer(sets[0], 2, "an accuracy")
    assert inputs.images is not None and inputs.support_images is not None  # check sees to it
    asked = _asked(sets[0], support[0], inputs.images, inputs.support_images)
    probes = _probed(sets, support, asked, inputs.seed)
    floors = {floor.encoder for floor in inputs.floors}
    rows = [*_rows(probes, asked, floors)]
    differences, tests = _differences(probes, asked, floors)
    settings = {
        "base": sets[0].encoder, "images": sets[0].images, "n": len(sets[0].item_ids), "consumed": sets[0].consumed,
        "support": support[0].images, "n_support": len(support[0].item_ids), "cs": list(CS), "tests": tests,
        "chance": {one.name: 1 / one.classes for one in asked},
    }  # fmt: skip
    return Result("attributes", QUESTION, (*rows, *differences), settings, tuple(_warnings(probes, asked)))


def _asked(test: FeatureSet, train: FeatureSet, images: ImageSet, support: ImageSet) -> list[_Asked]:
    shown, learned = scenes_of(images), scenes_of(support)
    scenes, training = [shown[item] for item in test.item_ids], [learned[item] for item in train.item_ids]
    found = []
    for attribute in (*ATTRIBUTES, *QUARTER_ATTRIBUTES):
        quarters = isinstance(attribute, QuarterAttribute)
        one = _ask(attribute, labels_of(attribute, training), labels_of(attribute, scenes), quarters)
        if one is not None:
            found.append(one)
    return found


def _ask(attribute: Attribute | QuarterAttribute, answers: Labels, truth: Labels, quarters: bool) -> _Asked | None:
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
    return _Asked(
        attribute.name, kept, quarters, train, test, number[answers[train]], number[truth[test]], images[test]
    )


def _probed(sets: list[FeatureSet], support: list[FeatureSet], asked: list[_Asked], seed: int) -> _Probes:
    probes = _Probes()
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


def _right(train: Array, test: Array, one: _Asked, seed: int, wrong: Counter[str]) -> NDArray[np.bool_]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", NotConverged)
        warnings.simplefilter("always", AtBoundary)
        fit = select_c(train[one.train], one.answers, CS, seed=seed).fit
    wrong.update(warning.category.__name__ for warning in caught)
    right: NDArray[np.bool_] = fit.classes(test[one.test]) == one.truth
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


def _rows(probes: _Probes, asked: list[_Asked], floors: set[str]) -> Iterator[Row]:
    by_name = {one.name: one for one in asked}
    for (name, place), found in probes.right.items():
        one, site, measure = by_name[name], probes.sites[place], f"attribute_{place}/{name}"
        for checkpoint, right in found.items():
            role: Role = "floor" if checkpoint in floors else "value"
            yield Row(checkpoint, site, measure, _share(right, one), role=role)
        majority = one.truth == np.bincount(one.answers).argmax()
        yield Row(MAJORITY, site, measure, _share(majority, one), role="floor")


def _share(right: NDArray[np.bool_], one: _Asked) -> Estimate:
    if one.quarters:
        found = clustered_mean(right.astype(np.float64), one.images)
        return Estimate(found.value, found.low, found.high, found.clusters, "fraction", "t over images 95 %")
    hits, n = int(right.sum()), len(right)
    return Estimate(hits / n, *wilson(hits, n), n, "fraction", "Wilson 95 %")


def _differences(probes: _Probes, asked: list[_Asked], floors: set[str]) -> tuple[list[Row], list[dict[str, Any]]]:
    by_name = {one.name: one for one in asked}
    rows: list[Row] = []
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for (name, place), found in probes.right.items():
        for earlier, later in combinations([one for one in found if one not in floors], 2):
            estimate, p = _difference(found[later], found[earlier], by_name[name])
            measure = f"attribute_{place}/{name}"
            rows.append(Row(later, probes.sites[place], measure, estimate, earlier, "difference"))
            test = {"checkpoint": later, "reference": earlier, "site": probes.sites[place], "measure": measure, "p": p}
            groups.setdefault((earlier, later, place), []).append(test)
    for group in groups.values():
        for test, adjusted in zip(group, holm([test["p"] for test in group]), strict=True):
            test["p_holm"] = float(adjusted)
    return rows, [test for group in groups.values() for test in group]


def _difference(later: NDArray[np.bool_], earlier: NDArray[np.bool_], one: _Asked) -> tuple[Estimate, float]:
    if not one.quarters:
        return paired_difference(later, earlier)
    change = later.astype(np.float64) - earlier
    found = clustered_mean(change, one.images, bounds=(-1, 1))
    # Of one number per image, the sum over its quarters, the test is that of a mean.
    sums = np.bincount(one.images, weights=change)[np.unique(one.images)]
    p = p_value(jackknife(replicate_mean(sums), limit=float("inf")))
    return Estimate(found.value, found.low, found.high, found.clusters, "fraction", "t over images 95 %"), p


def _warnings(probes: _Probes, asked: list[_Asked]) -> Iterator[str]:
    made = sum(len(found) for found in probes.right.values())
    if count := probes.wrong[NotConverged.__name__]:
        yield f"{count} of {made} probes did not converge"
    if count := probes.wrong[AtBoundary.__name__]:
        yield f"the best C of {count} of {made} probes lies at the end of the grid {CS[0]:g} to {CS[-1]:g}"
    unheard = sorted(one.name for one in asked if (one.truth == NONE).any())
    if unheard:
        yield f"{', '.join(unheard)}: some answers are not in the training scenes; they count as wrong"


def _needs(encoder: VisionEncoder) -> list[str]:
    square = encoder.grid is not None and encoder.grid[0] == encoder.grid[1] > 1
    return [*needs_read(encoder), f"{encoder.consumed}:quarters"] if square else needs_read(encoder)


def _check(images: ImageSet, support: ImageSet | None) -> None:
    """Refuse what is no digit scene.

    Raises:
        DataError: If the images, or those to learn from, are no digit scenes.
    """
    scenes_of(images)
    if support is None:
        raise DataError(
            f"{images.name}: probes of attributes are trained on the training scenes", hint="Leave --split out."
        )
    scenes_of(support)


READABLE = Analysis(
    name="attributes",
    question=QUESTION,
    needs=_needs,
    run=attributes,
    floors="untrained",
    support=True,
    check=_check,
)
