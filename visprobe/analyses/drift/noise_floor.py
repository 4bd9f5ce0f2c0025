"""Tests of whether a site moved: further from the base than rounding, at one error rate for all sites."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.results.result import BaselineKind, Result, Row

LEVEL = 0.05
Key = TypeVar("Key", bound=Hashable)

# Two roundings of the same weights differ in 1 - CKA by less than this factor at every site in 98 % of pairs or more,
# on every tower tried (analyses/drift/card.md): one rounding is one draw, and its own interval knows nothing of that.
MARGIN = 6.0

# Baselines that number formats make: weights rounded once, and, where towers run in another format than float32,
# the same weights run in float32. The second is not covered by the first: in bfloat16, rounded weights change nothing.
NOISE: dict[BaselineKind, str] = {"rounding": "bfloat16 rounding", "arithmetic": "float32 arithmetic"}

# Squared relative error of float32 arithmetic, with room: a CKA nearer to 1 cannot be told from 1.
_ARITHMETIC = 1e-11
RELATIVE_ARITHMETIC = math.sqrt(_ARITHMETIC)


def noise_floors(kinds: Mapping[str, BaselineKind]) -> list[str]:
    """Return the names of the baselines that number formats make, of all baselines by kind."""
    return [name for name, kind in kinds.items() if kind in NOISE]


def furthest_noise_floor(result: Result, **wanted: str) -> tuple[Row, str] | None:
    """Return the number-format baseline with the lowest "cka", and its name in words; None without any.

    Args:
        result: Result whose baselines to search.
        wanted: Fields for `Result.select`: site and measure.
    """
    rows = [(row, NOISE[row.baseline]) for row in result.select(role="baseline", **wanted) if row.baseline in NOISE]
    return min(rows, key=lambda found: found[0].estimate.value, default=None)


def p_beyond(ckas: Mapping[str, Replicated], rounding: Mapping[str, Replicated]) -> dict[str, float]:
    """Compute by site, unadjusted, the p-value that a checkpoint is no further from the base than by rounding.

    At each site the paired difference (1 - CKA) - MARGIN (1 - CKA of rounding) is tested against 0, one-sided, by its
    jackknife standard error and t(n-1).

    Args:
        ckas: CKA of the checkpoint with the base by site.
        rounding: CKA of the number-format baseline furthest from the base, over the same images; a site
            not in it is tested against 1.

    Returns:
        p-values by site, in [0, 1].

    Source:
        The t form of the jackknife is Tukey's (1958).
    """
    bars = {site: [(MARGIN, distance(baseline))] for site, baseline in rounding.items()}
    return {site: p_larger(distance(cka), bars.get(site, [])) for site, cka in ckas.items()}


def adjusted(p: Mapping[Key, float]) -> dict[Key, float]:
    """Correct p-values for the rate of any false alarm among them, under any dependence.

    Source:
        Holm 1979.
    """
    return {key: float(value) for key, value in zip(p, holm(list(p.values())), strict=True)}


def distance(cka: Replicated) -> Replicated:
    """Return 1 - CKA with its replicates."""
    return Replicated(1 - cka.value, 1 - cka.without)


def p_larger(change: Replicated, bars: Sequence[tuple[float, Replicated]], arithmetic: float = _ARITHMETIC) -> float:
    """Compute the one-sided p that a change of CKA is no larger than a bar, over the same images.

    Args:
        change: Distance of a CKA from 1, or difference of two CKAs.
        bars: Factors and distances whose sum it has to exceed.
        arithmetic: Largest change that float32 arithmetic alone can make; up to that p is 1.

    Returns:
        p in [0, 1], by the jackknife standard error of the paired difference and t(n-1).
    """
    if change.value <= arithmetic:
        return 1.0
    value = change.value - sum(factor * bar.value for factor, bar in bars)
    without = change.without - sum(factor * bar.without for factor, bar in bars)
    return Replicated(value, without).student.p_positive()


def has_moved(drift: Result, row: Row) -> bool:
    """Return True if a row lies beyond rounding, by the p-values in the settings of its result.

    Args:
        drift: A drift or trajectory result, or a similarity result.
        row: One of its rows of "cka", or of "relative_error".
    """
    p: float = drift.settings.get("p_moved", {}).get(row.checkpoint, {}).get(row.site, 1.0)
    return p <= LEVEL
