"""Scores of maps: means over images of focus and localisation, with baselines and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.core.differences import Test, pairs, with_holm
from visprobe.attribution.attributions import CENTRE, Attributions
from visprobe.attribution.evidence.focus import MEASURES, Floats
from visprobe.attribution.evidence.per_image import (
    OF_OTHERS,
    RANKS,
    SELECTIVITY,
    Place,
    lowest,
    measured,
    needs_region,
    uniform,
    unit,
)
from visprobe.errors import DataError
from visprobe.metrics.arrays import Labels
from visprobe.metrics.intervals.clustered import clustered_mean, clustered_student
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.proportions import paired_difference, proportion
from visprobe.results.result import BaselineKind, Estimate, Result, Row, role_of
from visprobe.results.statement import listed

QUESTION = "Where does each checkpoint look, and is it where the answer lies?"
UNIFORM = "uniform"
_ROUNDING = 1e-12  # relative rounding error of a mean of equal float64
Table = Mapping[str, Mapping[Place, Floats]]
"""Of each checkpoint and control one number per image, NaN where a measure is not defined."""


class Sample(NamedTuple):
    """Defined numbers, and the image (cluster) index of each."""

    values: Floats
    images: NDArray[np.int64]


def score(attributions: Attributions) -> Result:
    """Score the maps of every checkpoint, against controls and against each other.

    Args:
        attributions: Maps of the same images under all checkpoints and controls.

    Returns:
        Result "attribution"; the site of a row is "method@site". The measures, as means over images, are those of
        `focus.MEASURES` (with a region, over the images that have one); "rank_correlation", Spearman's with the
        base's map; and "selectivity" if an image has several questions, else "specificity". Selectivity is the mass
        of a map in its region minus that of maps for other questions about the image there, specificity minus that
        of maps of other images: from -1 to 1, 0 if maps ignore the question or the image. Baselines are the controls
        and "uniform", the value of a uniform map. Paired differences over the same images are taken between all
        checkpoints, later minus earlier, and of each checkpoint and control minus each control. Intervals are 95 %
        and clustered by image (t over images; for pointing with one question per image Wilson and Newcombe).
        "tests" in the settings holds the p of each difference (t test, McNemar), adjusted by Holm over all measures,
        methods and sites of its pair.

    Raises:
        DataError: If there are fewer than two images, or a measure is not defined for its map.
    """
    count = len(set(attributions.images))
    if count < 2:
        raise DataError(
            f"{count} image is too few for an interval", hint="Give two images or more, or draw the maps unscored."
        )
    numbers = np.unique(np.asarray(attributions.images), return_inverse=True)[1]
    table = {name: dict(measured(attributions, name)) for name in (*attributions.names, *attributions.controls)}
    expected = dict(uniform(attributions))
    values, warnings = _values(attributions, table, expected, numbers)
    differences, tests = _differences(attributions, table, numbers)
    settings: dict[str, Any] = {
        "base": attributions.names[0],
        "controls": list(attributions.controls),
        "n": count,
        "questions": len(attributions.images),
        "with_region": sum(region is not None for region in attributions.regions),
        "sites": ["@".join(key) for key in attributions.maps[attributions.names[0]]],
        "units": {measure: unit(measure) for measure in (*MEASURES, RANKS, *OF_OTHERS)},
        "tests": tests,
    }
    return Result("attribution", QUESTION, (*values, *differences), settings, (*_identical(attributions), *warnings))


def _values(
    attributions: Attributions, table: Table, expected: Mapping[Place, Floats], numbers: NDArray[np.int64]
) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    lacking: dict[tuple[str, str, int, int], list[str]] = {}
    for name, places in {**table, UNIFORM: expected}.items():
        kind: BaselineKind | None = None
        if name not in attributions.names:
            kind = "chance" if name == UNIFORM else "control"
        for (site, measure), values in places.items():
            asked = _with_region(attributions) if needs_region(measure) else np.ones(len(values), bool)
            missing = int(np.isnan(values[asked]).sum())
            if missing and measure != SELECTIVITY:  # an image with one question has no selectivity
                lacking.setdefault((name, site, missing, int(asked.sum())), []).append(measure)
            sample = _defined(values, numbers)
            if len(np.unique(sample.images)) >= 2:
                reference = attributions.names[0] if measure == RANKS else None
                rows.append(Row(name, site, measure, _mean(sample, measure), reference, role_of(kind), kind))
    return rows, [
        f"{name}, {site}: {missing} of {count} maps are left out of {listed(measures)}, which they do not have"
        for (name, site, missing, count), measures in lacking.items()
    ]


def _differences(attributions: Attributions, table: Table, numbers: Labels) -> tuple[list[Row], list[Test]]:
    names = attributions.names
    controls = sorted(attributions.controls, key=lambda name: name != CENTRE)  # the others are compared with the centre
    rows, tests = [], []
    for reference, name in [*combinations(names, 2), *product(controls, names), *combinations(controls, 2)]:
        both = {(who, *place): values for who in (reference, name) for place, values in table[who].items()}
        for pair in pairs(both, (reference, name)):
            sample = _defined(pair.after - pair.before, numbers)
            if len(np.unique(sample.images)) >= 2:
                found, p = _difference(sample, pair.measure, pair.after, pair.before)
                rows.append(pair.row(found))
                tests.append(pair.test(p))
    return rows, with_holm(tests, lambda test: (test["checkpoint"], test["reference"]))


def _defined(values: Floats, numbers: NDArray[np.int64]) -> Sample:
    known = ~np.isnan(values)
    return Sample(values[known], numbers[known])


def _mean(sample: Sample, measure: str) -> Estimate:
    if _counts(sample, measure, sample.values):
        return proportion(sample.values > 0, unit(measure))
    return clustered_mean(sample.values, sample.images, _scale(measure))


def _difference(sample: Sample, measure: str, after: Floats, before: Floats) -> tuple[Estimate, float]:
    both = ~np.isnan(after - before)
    if _counts(sample, measure, np.concatenate([after[both], before[both]])):
        difference, p = paired_difference(after[both] > 0, before[both] > 0)
        return replace(difference, unit=unit(measure)), p
    found = clustered_student(sample.values, sample.images)
    # If all images have the same number, t is not defined: p is then that of a sign flip of all of them.
    apart = found.error > abs(found.value) * _ROUNDING
    p = found.p_zero() if apart or not found.value else 2.0**-found.freedom
    return found.estimate(_scale(measure).of_differences), p


def _scale(measure: str) -> Scale:
    return Scale(unit(measure), lowest(measure), 1)


def _counts(sample: Sample, measure: str, values: Floats) -> bool:
    """Return whether `values` are binary, with one value for each image."""
    yes_or_no = measure == "pointing" and bool(np.isin(values, (0, 1)).all())
    return yes_or_no and len(np.unique(sample.images)) == len(sample.images)


def _with_region(attributions: Attributions) -> NDArray[np.bool_]:
    return np.array([region is not None for region in attributions.regions])


def _identical(attributions: Attributions) -> Iterator[str]:
    base, *others = attributions.names
    for name in others:
        pairs = [zip(attributions.maps[name][key], own, strict=True) for key, own in attributions.maps[base].items()]
        if all(bool((one.values == other.values).all()) for pair in pairs for one, other in pair):
            yield f"{name}: maps equal those of {base} bit for bit"
