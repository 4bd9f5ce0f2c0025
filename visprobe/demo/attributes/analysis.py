"""Analysis of scene attributes that can be read linearly: which digit, in which colour, where, and how many."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from visprobe.analyses.accuracy.overlap import overlap, overlap_settings, overlap_warnings
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import Test, kinds_of, pairs, value_rows, with_holm
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.data.image_set import ImageSet
from visprobe.demo.attributes.probes import CS, AttributeTarget, Probes, asked_of, probed
from visprobe.demo.attributes.targets import NONE, scenes_of
from visprobe.errors import DataError
from visprobe.features.requests import read_sites
from visprobe.metrics.arrays import Bools
from visprobe.metrics.classifiers.logistic import NotConverged
from visprobe.metrics.classifiers.select_c import AtBoundary
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import FRACTION
from visprobe.metrics.intervals.jackknife import replicate_mean
from visprobe.metrics.intervals.proportions import paired_difference, proportion
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import BaselineKind, Estimate, Result, Row

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

QUESTION = "Which details of a scene can be read linearly from the encoder's features, and better than before?"
MAJORITY = "most frequent answer"


def attributes(inputs: Inputs) -> Result:
    """Train linear probes of scene attributes on the training scenes, and measure them on the others.

    Args:
        inputs: Features of `DigitScenes` and of their training split; `images` and `support_images` are the scenes.

    Returns:
        Rows "attribute_consumed/<attribute>" and "attribute_projected/<attribute>" from the mean over all tokens, and
        "attribute_quarters/<attribute>" from the mean over the tokens of a quarter of the grid, one probe for all four
        quarters: accuracy in [0, 1] with Wilson intervals, for quarters with t intervals clustered by image. Baselines
        are the untrained encoder and the most frequent answer of the training scenes. Paired differences between
        checkpoints have Newcombe (for quarters jackknife) intervals; their tests, with Holm's p over the attributes of
        a pair and place, are in the settings.

    Raises:
        DataError: If images cannot be paired, a feature is not finite, or there are too few training scenes.
    """
    sets, support = align(inputs.all), align(inputs.support)
    refuse_fewer(sets[0], 2, "an accuracy")
    assert inputs.images is not None and inputs.support_images is not None  # ensured by check
    asked = asked_of(sets[0], support[0], inputs.images, inputs.support_images)
    probes = probed(sets, support, asked, inputs.seed)
    baselines = kinds_of(inputs.baselines)
    rows = [*_rows(probes, asked, baselines)]
    differences, tests = _differences(probes, asked, baselines)
    shared = overlap(sets[0], support[0])
    settings = {
        **common_settings(sets[0]),
        "support": support[0].images, "n_support": len(support[0].item_ids), "cs": list(CS), "tests": tests,
        "chance": {one.name: 1 / one.classes for one in asked}, **overlap_settings(shared),
    }  # fmt: skip
    warnings = (*overlap_warnings(shared, sets[0], support[0]), *_warnings(probes, asked))
    return Result("attributes", QUESTION, (*rows, *differences), settings, warnings)


def _rows(probes: Probes, asked: list[AttributeTarget], baselines: Mapping[str, BaselineKind]) -> Iterator[Row]:
    by_name = {one.name: one for one in asked}
    for (name, place), found in probes.right.items():
        one, site, measure = by_name[name], probes.sites[place], f"attribute_{place}/{name}"
        majority = one.truth == np.bincount(one.answers).argmax()
        numbers = {(checkpoint, site, measure): _share(right, one) for checkpoint, right in found.items()}
        yield from value_rows(
            numbers | {(MAJORITY, site, measure): _share(majority, one)}, {**baselines, MAJORITY: "chance"}
        )


def _share(right: Bools, one: AttributeTarget) -> Estimate:
    return clustered_mean(right.astype(np.float64), one.images) if one.quarters else proportion(right)


def _differences(
    probes: Probes, asked: list[AttributeTarget], baselines: Collection[str]
) -> tuple[list[Row], list[Test]]:
    by_name = {one.name: one for one in asked}
    rows: list[Row] = []
    groups: dict[tuple[str, str, str], list[Test]] = {}
    for (name, place), found in probes.right.items():
        right = {
            (checkpoint, probes.sites[place], f"attribute_{place}/{name}"): one for checkpoint, one in found.items()
        }
        for pair in pairs(right, [one for one in found if one not in baselines]):
            estimate, p = _difference(pair.after, pair.before, by_name[name])
            rows.append(pair.row(estimate))
            groups.setdefault((pair.earlier, pair.later, place), []).append(pair.test(p))
    return rows, [test for group in groups.values() for test in with_holm(group, lambda _: 0)]


def _difference(later: Bools, earlier: Bools, one: AttributeTarget) -> tuple[Estimate, float]:
    if not one.quarters:
        return paired_difference(later, earlier)
    change = later.astype(np.float64) - earlier
    # One sum per image over its quarters, so that the test of a mean has independent values.
    sums = np.bincount(one.images, weights=change)[np.unique(one.images)]
    return clustered_mean(change, one.images, FRACTION.of_differences), replicate_mean(sums).student.p_zero()


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
    return [*read_sites(encoder), f"{encoder.consumed}:quarters"] if square else read_sites(encoder)


def _check(images: ImageSet, support: ImageSet | None) -> None:
    """Refuse images, or training images, that are not digit scenes."""
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
    baselines="untrained",
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
