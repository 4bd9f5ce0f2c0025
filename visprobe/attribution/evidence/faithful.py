"""Faithfulness of maps: mean deletion and insertion curves over images, and the gain between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from visprobe.attribution.evidence.faithfulness import Curves
from visprobe.errors import DataError
from visprobe.metrics.arrays import Array, Labels
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import Scale
from visprobe.results.result import Estimate, Result, Row

QUESTION = "Does the score follow the patches that the maps point to?"
WAYS = ("deletion", "insertion")
CHANCE = ", random order"


def faithfulness(
    curves: Mapping[str, Sequence[Curves]], images: Sequence[str], method: str, site: str, unit: str, baseline: str
) -> Result:
    """Average the curves of every checkpoint over images, and compare their gain with the base's.

    Args:
        curves: Curves of each image by the name of the checkpoint, the base first.
        images: Name of the image of each curve.
        method: Method of the maps.
        site: Site of the maps.
        unit: Unit of the score.
        baseline: Name of the baseline image that replaces patches.

    Returns:
        Result "faithfulness": the rows of `curve_rows`, and paired differences of the gain, with 95 % t intervals over
        images.

    Raises:
        DataError: If curves and images do not fit, or curves have different numbers of points.
    """
    rows = curve_rows(curves, images, method, site, unit)
    (base, before), *others = curves.items()
    clusters = np.unique(np.asarray(images), return_inverse=True)[1]
    for name, after in others:
        apart = np.array([one.gain - other.gain for one, other in zip(after, before, strict=True)])
        rows.append(Row(name, f"{method}@{site}", "gain", _mean(apart, clusters, unit), base, "difference"))
    settings = {"base": base, "baseline": baseline}
    return Result("faithfulness", QUESTION, tuple(rows), settings)


def curve_rows(
    curves: Mapping[str, Sequence[Curves]], images: Sequence[str], method: str, site: str, unit: str
) -> list[Row]:
    """Average curves over images, in units of the score; every image has the same weight.

    Args:
        curves: Curves of each image by the name of the checkpoint, the base first.
        images: Name of the image of each curve; several questions about one image repeat it and form a cluster.
        method: Method of the maps.
        site: Site of the maps.
        unit: Unit of the score.

    Returns:
        Rows with the measures "deletion at 0.25", "insertion at 0.25" and "gain", the area between the two; those of
        a random order have the role "baseline". Intervals are pointwise.

    Raises:
        DataError: If curves and images do not fit, or curves have different numbers of points.
    """
    clusters = np.unique(np.asarray(images), return_inverse=True)[1]
    rows = list[Row]()
    for name, every in curves.items():
        if len(every) != len(images) or len({len(one.fractions) for one in every}) != 1:
            raise DataError(
                f"{name}: {len(every)} curves of {len(images)} images, of "
                f"{sorted({len(one.fractions) for one in every})} points",
                hint="Make those of all images at once, with the same steps.",
            )
        rows += _rows(name, f"{method}@{site}", every, clusters, unit)
    return rows


def _rows(name: str, site: str, curves: Sequence[Curves], clusters: Labels, unit: str) -> Iterator[Row]:
    fractions = np.mean([one.fractions for one in curves], axis=0)
    for way in WAYS:
        # Deleting patches in random order is inserting the others in reverse: one random order is the control of both.
        chance = [one.random if way == "deletion" else one.random[::-1] for one in curves]
        own = [one.deletion if way == "deletion" else one.insertion for one in curves]
        for at, scores, by_chance in zip(fractions, np.transpose(own), np.transpose(chance), strict=True):
            yield Row(name, site, f"{way} at {at:.4g}", _mean(scores, clusters, unit))
            yield Row(
                name,
                site,
                f"{way}{CHANCE} at {at:.4g}",
                _mean(by_chance, clusters, unit),
                role="baseline",
                baseline="chance",
            )
    yield Row(name, site, "gain", _mean(np.array([one.gain for one in curves]), clusters, unit))


def _mean(values: Array, clusters: Labels, unit: str) -> Estimate:
    if clusters.max() == 0:
        return replace(Estimate.exact(float(values.mean()), 1, unit), method="one image, no interval")
    return clustered_mean(values, clusters, Scale(unit))
