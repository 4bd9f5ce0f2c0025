"""Numbers by checkpoint, site and measure as rows, and paired differences of every two checkpoints with their tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Generic, NamedTuple, TypeVar

from visprobe.metrics.intervals.estimate import Estimate
from visprobe.metrics.intervals.half_sampling import Halved
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.results.result import Role, Row

Key = tuple[str, str, str]  # checkpoint, site, measure
Replicates = Replicated | Halved
Test = dict[str, Any]
T = TypeVar("T")


class Paired(NamedTuple, Generic[T]):
    """What two checkpoints have at one site by one measure.

    Attributes:
        later: Name of the one.
        earlier: Name of the other, which is subtracted.
        site: Where.
        measure: What.
        after: What `later` has.
        before: What `earlier` has.
    """

    later: str
    earlier: str
    site: str
    measure: str
    after: T
    before: T

    def row(self, difference: Estimate) -> Row:
        """The row of a difference, later minus earlier."""
        return Row(self.later, self.site, self.measure, difference, self.earlier, "difference")

    def test(self, p: float) -> Test:
        """The test of a difference as settings hold it, not yet adjusted."""
        return {
            "checkpoint": self.later, "reference": self.earlier, "site": self.site, "measure": self.measure, "p": p
        }  # fmt: skip


def by_key(found: Mapping[str, Mapping[str, T]], measure: str) -> dict[Key, T]:
    """What was found by checkpoint and site, by checkpoint, site and measure."""
    return {(name, site, measure): one for name, sites in found.items() for site, one in sites.items()}


def value_rows(
    numbers: Mapping[Key, Estimate], floors: Collection[str] = (), reference: str | None = None
) -> Iterator[Row]:
    """One row per number, with the role "floor" where its checkpoint is one of `floors`."""
    for (name, site, measure), number in numbers.items():
        role: Role = "floor" if name in floors else "value"
        yield Row(name, site, measure, number, reference, role)


def pairs(found: Mapping[Key, T], names: Iterable[str]) -> Iterator[Paired[T]]:
    """Every two of `names` with every site and measure that both have, the later one first and in its order.

    Args:
        found: What there is, in any form that can be subtracted.
        names: Checkpoints in their order; those of which nothing was found have no pairs.
    """
    for earlier, later in combinations(names, 2):
        for name, site, measure in found:
            if name == later and (earlier, site, measure) in found:
                before = found[earlier, site, measure]
                yield Paired(later, earlier, site, measure, found[later, site, measure], before)


def difference_rows(
    found: Mapping[Key, T], names: Iterable[str], difference: Callable[[Paired[T]], Estimate]
) -> Iterator[Row]:
    """Paired differences of every two checkpoints, later minus earlier, as `pairs` gives them."""
    return (pair.row(difference(pair)) for pair in pairs(found, names))


def tested_differences(
    found: Mapping[Key, T],
    names: Iterable[str],
    difference: Callable[[Paired[T]], tuple[Estimate, float]],
) -> tuple[list[Row], list[Test]]:
    """As `difference_rows`, and the test of each difference, adjusted over the sites of a pair and measure.

    Args:
        found: As `pairs`.
        names: As `pairs`.
        difference: The difference of a pair and its p.

    Returns:
        Rows; and for each {"checkpoint", "reference", "site", "measure", "p", "p_holm"}.
    """
    rows, tests = [], []
    for pair in pairs(found, names):
        estimate, p = difference(pair)
        rows.append(pair.row(estimate))
        tests.append(pair.test(p))
    return rows, with_holm(tests, lambda test: (test["checkpoint"], test["reference"], test["measure"]))


def with_holm(tests: Sequence[Test], group: Callable[[Test], Hashable]) -> list[Test]:
    """Tests with "p_holm", their "p" adjusted over all tests of one group (Holm 1979)."""
    groups: dict[Hashable, list[Test]] = {}
    for test in tests:
        groups.setdefault(group(test), []).append(test)
    for own in groups.values():
        for test, adjusted in zip(own, holm([test["p"] for test in own]), strict=True):
            test["p_holm"] = float(adjusted)
    return list(tests)


def subtract(pair: Paired[Replicates]) -> Replicates:
    """The difference of a pair over the same images, replicate by replicate.

    Raises:
        ValueError: If their replicates were made in two ways, or of other numbers of images.
    """
    after, before = pair.after, pair.before
    if isinstance(after, Halved) and isinstance(before, Halved):
        return after - before
    if isinstance(after, Replicated) and isinstance(before, Replicated):
        return after - before
    raise ValueError("two statistics with other replicates cannot be paired")
