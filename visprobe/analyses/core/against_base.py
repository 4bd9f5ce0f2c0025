"""Measures of every checkpoint's features against the base's, with baselines and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.core.differences import Key, Replicates, difference_rows, kinds_of, subtract, value_rows
from visprobe.analyses.core.pairing import align, common_settings, same_tower
from visprobe.analyses.core.refusals import naming, refuse_fewer
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import Scale
from visprobe.results.result import BaselineKind, Row

LEAST = 50  # images; neighbours and held-out fits of fewer mean little
Features = NDArray[np.floating[Any]]


class Measure(NamedTuple):
    """Similarity of two representations of the same images.

    Attributes:
        name: Name in `Row.measure`.
        scale: Unit and range of its values.
        compute: Maps the base's features, the other's and a seed to the value with replicates.
        most: Most images used, spread evenly over all, for measures whose cost is quadratic in them.
        per_direction: Least number of images per dimension of the features.
    """

    name: str
    scale: Scale
    compute: Callable[[Features, Features, int], Replicates]
    most: int | None = None
    per_direction: int = 0


@dataclass(frozen=True)
class Compared:
    """Numbers of `against_base`.

    Attributes:
        base: Features of the base.
        names: Names of the descendants.
        identical: Descendants whose tower gives the base's features bit for bit.
        baselines: Kind of each baseline by its name.
        found: Value with replicates by checkpoint, site and measure.
        scales: Scale of each measure.
        warnings: Identical towers, and measures left out for lack of images.
    """

    base: FeatureSet
    names: tuple[str, ...]
    identical: tuple[str, ...]
    baselines: Mapping[str, BaselineKind]
    found: Mapping[Key, Replicates]
    scales: Mapping[str, Scale]
    warnings: tuple[str, ...]

    def rows(self) -> tuple[Row, ...]:
        """Return values of descendants and baselines, then paired differences between descendants."""
        numbers = {key: one.estimate(self.scales[key[2]]) for key, one in self.found.items()}
        differences = difference_rows(
            self.found, self.names, lambda pair: subtract(pair).estimate(self.scales[pair.measure].of_differences)
        )
        return (*value_rows(numbers, self.baselines, self.base.encoder), *differences)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the numbers depend on."""
        return {
            **common_settings(self.base),
            "sites": list(self.base.sites),
            "identical": list(self.identical),
        }


def against_base(
    base: FeatureSet,
    others: Sequence[FeatureSet],
    baselines: Sequence[FeatureSet],
    plan: Mapping[str, Sequence[Measure]],
    seed: int,
) -> Compared:
    """Measure every checkpoint against the base, over the same images.

    Args:
        base: Features under the base.
        others: Features of the same images under its descendants.
        baselines: Features of the same images under the baselines.
        plan: Measures to take at each site.
        seed: Seed of every random split, the same for all, so that their values may be subtracted.

    Returns:
        The numbers, measure by measure in the order of `plan`. A descendant with the base's tower gets none where
        its features equal the base's.

    Raises:
        DataError: If the images differ or are too few, or a measure is not defined for the features.
    """
    base, *rest = align([base, *others, *baselines])
    refuse_fewer(base, LEAST, "this", "Give more images, or leave this analysis out.")
    names = tuple(features.encoder for features in others)
    identical = tuple(features.encoder for features in rest[: len(names)] if same_tower(base, features))
    found: dict[Key, Replicates] = {}
    short: dict[str, str] = {}
    for features in rest:
        for site in plan:
            told = features.encoder in identical and np.array_equal(features.sites.get(site, []), base.sites[site])
            if site in features.sites and not told:
                fitting = [one for one in plan[site] if _enough(one, base, site, short)]
                found |= {(features.encoder, site, one.name): _measured(one, base, features, site, seed)
                          for one in fitting}  # fmt: skip
    scales = {measure.name: measure.scale for measures in plan.values() for measure in measures}
    order = list(scales)
    by_measure = dict(sorted(found.items(), key=lambda item: order.index(item[0][2])))  # stable sort
    same = [f"{name}: features equal those of {base.encoder} bit for bit: the tower was not trained or not saved"
            for name in identical]  # fmt: skip
    return Compared(base, names, identical, kinds_of(baselines), by_measure, scales, (*same, *short.values()))


def spread(n: int, most: int | None) -> NDArray[np.intp]:
    """Return at most `most` of n indices, evenly spaced."""
    return np.arange(n) if most is None or most >= n else np.arange(most) * n // most


def _enough(measure: Measure, base: FeatureSet, site: str, short: dict[str, str]) -> bool:
    """Check that a measure has images enough; if not, note in `short` why it is left out."""
    n, d = base.sites[site].shape
    if n < measure.per_direction * d:
        short[f"{measure.name} {site}"] = (
            f"{measure.name} was left out at {site}: {n} images are too few for {d} dimensions, "
            f"it needs {measure.per_direction} times as many"
        )
        return False
    return True


def _measured(measure: Measure, base: FeatureSet, other: FeatureSet, site: str, seed: int) -> Replicates:
    rows = spread(len(base.item_ids), measure.most)
    with naming(other, site, measure.name, base.encoder):
        return measure.compute(base.sites[site][rows], other.sites[site][rows], seed)
