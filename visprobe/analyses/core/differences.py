"""Rows of numbers by checkpoint, site and measure, and tested paired differences between checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Generic, NamedTuple, TypeVar

from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import Estimate
from visprobe.metrics.intervals.half_sampling import Halved
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.results.result import BaselineKind, Row, role_of

Key = tuple[str, str, str]  # checkpoint, site, measure
Replicates = Replicated | Halved
Test = dict[str, Any]
T = TypeVar("T")


class Paired(NamedTuple, Generic[T]):
    """Values of two checkpoints at one site by one measure.

    Attributes:
        later: Name of the later checkpoint.
        earlier: Name of the earlier checkpoint, which is subtracted.
        site: Name of the site.
        measure: Name of the measure.
        after: Value of `later`.
        before: Value of `earlier`.
    """

    later: str
    earlier: str
    site: str
    measure: str
    after: T
    before: T

    def row(self, difference: Estimate) -> Row:
        """Return the row of a difference, later minus earlier."""
        return Row(self.later, self.site, self.measure, difference, self.earlier, "difference")

    def test(self, p: float) -> Test:
        """Return the record of a difference's test for the settings, not yet adjusted."""
        return {
            "checkpoint": self.later, "reference": self.earlier, "site": self.site, "measure": self.measure, "p": p
        }  # fmt: skip


def by_key(found: Mapping[str, Mapping[str, T]], measure: str) -> dict[Key, T]:
    """Flatten what was found by checkpoint and site to keys of checkpoint, site and measure."""
    return {(name, site, measure): one for name, sites in found.items() for site, one in sites.items()}


def kinds_of(baselines: Iterable[FeatureSet]) -> dict[str, BaselineKind]:
    """Return the kind of each of some baselines by its name.

    Raises:
        ValueError: If one of them is not marked as a baseline.
    """
    kinds: dict[str, BaselineKind] = {}
    for features in baselines:
        if features.baseline is None:
            raise ValueError(f"{features.encoder} is not marked as a baseline (FeatureSet.baseline)")
        kinds[features.encoder] = features.baseline.kind
    return kinds


def value_rows(
    numbers: Mapping[Key, Estimate], baselines: Mapping[str, BaselineKind], reference: str | None = None
) -> Iterator[Row]:
    """Yield one row per number, with the role "baseline" where `baselines` has the kind of its checkpoint."""
    for (name, site, measure), number in numbers.items():
        kind = baselines.get(name)
        yield Row(name, site, measure, number, reference, role_of(kind), kind)


def pairs(found: Mapping[Key, T], names: Iterable[str]) -> Iterator[Paired[T]]:
    """Yield every two of `names` at every site and measure that both have, the later one first.

    Args:
        found: Values by key, in any form that can be subtracted.
        names: Checkpoints in their order; those without values have no pairs.
    """
    for earlier, later in combinations(names, 2):
        for name, site, measure in found:
            if name == later and (earlier, site, measure) in found:
                before = found[earlier, site, measure]
                yield Paired(later, earlier, site, measure, found[later, site, measure], before)


def difference_rows(
    found: Mapping[Key, T], names: Iterable[str], difference: Callable[[Paired[T]], Estimate]
) -> Iterator[Row]:
    """Yield the paired differences of every two checkpoints, later minus earlier."""
    return (pair.row(difference(pair)) for pair in pairs(found, names))


def tested_differences(
    found: Mapping[Key, T],
    names: Iterable[str],
    difference: Callable[[Paired[T]], tuple[Estimate, float]],
) -> tuple[list[Row], list[Test]]:
    """Compute paired differences of every two checkpoints and their tests, Holm-adjusted over sites.

    Args:
        found: Values by key, in any form that can be subtracted.
        names: Checkpoints in their order.
        difference: Returns the difference of a pair and its p.

    Returns:
        Rows; and for each {"checkpoint", "reference", "site", "measure", "p", "p_holm"}, adjusted over the sites of a
        pair and measure.
    """
    rows, tests = [], []
    for pair in pairs(found, names):
        estimate, p = difference(pair)
        rows.append(pair.row(estimate))
        tests.append(pair.test(p))
    return rows, with_holm(tests, lambda test: (test["checkpoint"], test["reference"], test["measure"]))


def with_holm(tests: Sequence[Test], group: Callable[[Test], Hashable]) -> list[Test]:
    """Add "p_holm" to tests: their "p" adjusted over all tests of one group (Holm 1979)."""
    groups: dict[Hashable, list[Test]] = {}
    for test in tests:
        groups.setdefault(group(test), []).append(test)
    for own in groups.values():
        for test, adjusted in zip(own, holm([test["p"] for test in own]), strict=True):
            test["p_holm"] = float(adjusted)
    return list(tests)


def subtract(pair: Paired[Replicates]) -> Replicates:
    """Subtract a pair over the same images, replicate by replicate.

    Raises:
        ValueError: If their replicates are of two kinds, or of other numbers of images.
    """
    after, before = pair.after, pair.before
    if isinstance(after, Halved) and isinstance(before, Halved):
        return after - before
    if isinstance(after, Replicated) and isinstance(before, Replicated):
        return after - before
    raise ValueError("two statistics with other replicates cannot be paired")
