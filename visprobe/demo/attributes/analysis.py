"""What of a scene can be read linearly: which digit, in which colour, where, and how many?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from visprobe.analyses.accuracy.overlap import overlap, overlap_settings, overlap_warnings
from visprobe.analyses.accuracy.rows import needs_read, paired_difference
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.estimates import refuse_fewer
from visprobe.analyses.core.pairing import align
from visprobe.analyses.probes.tests import p_value
from visprobe.data.image_set import ImageSet
from visprobe.demo.attributes.probes import CS, AttributeTarget, Bools, Probes, asked_of, probed
from visprobe.demo.attributes.targets import NONE, scenes_of
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import DataError
from visprobe.metrics.classifiers.logistic import NotConverged
from visprobe.metrics.classifiers.select_c import AtBoundary
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.jackknife import jackknife, replicate_mean
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.intervals.proportions import wilson
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Role, Row

QUESTION = "Which details of a scene can be read linearly from the encoder's features, and better than before?"
MAJORITY = "most frequent answer"


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
    asked = asked_of(sets[0], support[0], inputs.images, inputs.support_images)
    probes = probed(sets, support, asked, inputs.seed)
    floors = {floor.encoder for floor in inputs.floors}
    rows = [*_rows(probes, asked, floors)]
    differences, tests = _differences(probes, asked, floors)
    shared = overlap(sets[0], support[0])
    settings = {
        "base": sets[0].encoder, "images": sets[0].images, "n": len(sets[0].item_ids), "consumed": sets[0].consumed,
        "support": support[0].images, "n_support": len(support[0].item_ids), "cs": list(CS), "tests": tests,
        "chance": {one.name: 1 / one.classes for one in asked}, **overlap_settings(shared),
    }  # fmt: skip
    warnings = (*overlap_warnings(shared, sets[0], support[0]), *_warnings(probes, asked))
    return Result("attributes", QUESTION, (*rows, *differences), settings, warnings)


def _rows(probes: Probes, asked: list[AttributeTarget], floors: set[str]) -> Iterator[Row]:
    by_name = {one.name: one for one in asked}
    for (name, place), found in probes.right.items():
        one, site, measure = by_name[name], probes.sites[place], f"attribute_{place}/{name}"
        for checkpoint, right in found.items():
            role: Role = "floor" if checkpoint in floors else "value"
            yield Row(checkpoint, site, measure, _share(right, one), role=role)
        majority = one.truth == np.bincount(one.answers).argmax()
        yield Row(MAJORITY, site, measure, _share(majority, one), role="floor")


def _share(right: Bools, one: AttributeTarget) -> Estimate:
    if one.quarters:
        found = clustered_mean(right.astype(np.float64), one.images)
        return Estimate(found.value, found.low, found.high, found.clusters, "fraction", "t over images 95 %")
    hits, n = int(right.sum()), len(right)
    return Estimate(hits / n, *wilson(hits, n), n, "fraction", "Wilson 95 %")


def _differences(
    probes: Probes, asked: list[AttributeTarget], floors: set[str]
) -> tuple[list[Row], list[dict[str, Any]]]:
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


def _difference(later: Bools, earlier: Bools, one: AttributeTarget) -> tuple[Estimate, float]:
    if not one.quarters:
        return paired_difference(later, earlier)
    change = later.astype(np.float64) - earlier
    found = clustered_mean(change, one.images, bounds=(-1, 1))
    # Of one number per image, the sum over its quarters, the test is that of a mean.
    sums = np.bincount(one.images, weights=change)[np.unique(one.images)]
    p = p_value(jackknife(replicate_mean(sums), limit=float("inf")))
    return Estimate(found.value, found.low, found.high, found.clusters, "fraction", "t over images 95 %"), p


def _warnings(probes: Probes, asked: list[AttributeTarget]) -> Iterator[str]:
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
    presentation=Presentation(
        titles={
            "attribute_consumed": "Attributes read linearly, where the language model reads",
            "attribute_projected": "Attributes read linearly, after the projector",
            "attribute_quarters": "Attributes of a quarter read linearly from its tokens",
        },
        heading="Attribute",
        figures=(FigureSpec("attributes", "visprobe.demo.attributes.figure"),),
        place=100,
    ),
)
