"""Conditions on results that make a run fail, so that a training pipeline can stop by itself."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from visprobe.errors import UsageError
from visprobe.results.result import Estimate, Result, Row

DRIFT = "drift"  # 1 − CKA: people ask how far something moved
EVERYWHERE = "any"
_COMPARE = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_FORM = re.compile(
    r"(?P<what>[^<>]+?)\s*(?P<sign><=|>=|<|>)\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*(?P<percent>%?)"
)
_TYPED = str.maketrans({"−": "-", "≤": "<=", "≥": ">=", "\u202f": " ", "\u00a0": " "})  # as tables print them
_BASE = "-base"
_ONE_PART = "swap"  # whose sites are what was exchanged
HINT = "Write MEASURE>NUMBER, as in 'drift>0.05', 'cka@projected<0.99' or 'top1-base<-1%'; visprobe list measures."


@dataclass(frozen=True)
class Condition:
    """What must not be.

    Attributes:
        text: The condition as it was written.
        measure: Measure of a row ("top1", "cka"), or `DRIFT`.
        difference: Whether the paired difference to the base is meant, instead of the value.
        site: Where; None is what the language model reads, `EVERYWHERE` any site.
        sign: "<", ">", "<=" or ">=".
        number: What is compared with, in the unit of the row.
    """

    text: str
    measure: str
    difference: bool
    site: str | None
    sign: str
    number: float

    def beyond(self, value: float) -> bool:
        """Whether `value` is on the side that must not be."""
        return bool(_COMPARE[self.sign](value, self.number))


@dataclass(frozen=True)
class Gate:
    """What became of a condition for one checkpoint at one site.

    Attributes:
        condition: The condition as it was written.
        checkpoint: Name of the checkpoint.
        site: The site.
        value: The number that was found.
        low: Lower end of its interval.
        high: Upper end of its interval.
        beyond: Whether the number itself is beyond the condition's.
        tripped: Whether its whole interval is: then the images at hand say so, and not only by chance.
    """

    condition: str
    checkpoint: str
    site: str
    value: float
    low: float
    high: float
    beyond: bool
    tripped: bool


def read_condition(text: str) -> Condition:
    """A condition from its text: MEASURE[-base][@SITE] SIGN NUMBER[%].

    Raises:
        UsageError: If it is none.
    """
    found = _FORM.fullmatch(text.translate(_TYPED).strip())
    measure, at, site = found["what"].partition("@") if found else ("", "", "")
    name = measure.strip().removesuffix(_BASE).strip()
    if not found or not name or (at and not site.strip()):
        raise UsageError(f"--fail-on {text!r} is no condition", hint=HINT)
    number = float(found["number"]) / (100 if found["percent"] else 1)
    difference = measure.strip().endswith(_BASE)
    return Condition(text.strip(), name, difference, site.strip() or None, found["sign"], number)


def judge(conditions: Sequence[Condition], results: Sequence[Result]) -> tuple[Gate, ...]:
    """Every condition held against every checkpoint that it speaks about.

    Args:
        conditions: What must not be.
        results: What was measured.

    Returns:
        The outcomes, in the order of the conditions.

    Raises:
        UsageError: If a condition speaks of something that was not measured.
    """
    return tuple(gate for condition in conditions for gate in _outcomes(condition, results))


def _outcomes(condition: Condition, results: Sequence[Result]) -> Iterable[Gate]:
    measured = dict.fromkeys(row.measure for result in results for row in result.rows if row.role != "floor")
    if condition.difference and condition.measure + _BASE in measured:  # a text model called bert-base
        condition = replace(condition, measure=condition.measure + _BASE, difference=False)
    rows = [row for result in results for row in _rows(condition, result)]
    found = dict.fromkeys(_outcome(condition, row) for row in rows)  # two analyses may give one number
    if not found:
        known = ", ".join([*measured, *([DRIFT] if "cka" in measured else [])])
        raise UsageError(
            f"--fail-on {condition.text!r}: this run has no such number", hint=f"It measured {known}. {HINT}"
        )
    if abs(condition.number) > 1 and {row.estimate.unit for row in rows} == {"fraction"}:
        raise UsageError(
            f"--fail-on {condition.text!r}: {condition.measure} is a fraction of 1, which is never there",
            hint=f"Write {condition.sign}{condition.number:g}% or {condition.sign}{condition.number / 100:g}.",
        )
    return found


def _rows(condition: Condition, result: Result) -> Iterator[Row]:
    """The rows that a condition is about, drift as what it is."""
    measure = "cka" if condition.measure == DRIFT else condition.measure
    read = result.consumed
    sites = {row.site for row in result.rows if row.measure == measure}
    site = condition.site or (read if read in sites and result.analysis != _ONE_PART else None)
    rows = result.select(measure=measure, role="difference" if condition.difference else "value")
    for row in [*rows, *(_unmoved(result, site) if measure == "cka" and not condition.difference else ())]:
        at = site is None or site in (EVERYWHERE, row.site) or (site == "consumed" and row.site == read)
        # Differences between two others than the base answer another question.
        if at and (not condition.difference or row.reference == result.settings.get("base", row.reference)):
            yield replace(row, estimate=_one_minus(row.estimate)) if condition.measure == DRIFT else row


def _unmoved(result: Result, site: str | None) -> Iterator[Row]:
    """Checkpoints that drift has no rows of, because their features are the base's to the bit."""
    sites = {None, EVERYWHERE, "consumed", result.consumed, *(row.site for row in result.rows)}
    known = not result.rows or site in sites
    for name in result.identical if known and result.analysis == "drift" else ():
        if not result.select(checkpoint=name, site=site):
            yield Row(name, site or str(result.consumed), "cka", Estimate(1, 1, 1, 0, "CKA", "exact"))


def _one_minus(estimate: Estimate) -> Estimate:
    return replace(estimate, value=1 - estimate.value, low=1 - estimate.high, high=1 - estimate.low)


def _outcome(condition: Condition, row: Row) -> Gate:
    one = row.estimate
    surely = condition.beyond(one.low) and condition.beyond(one.high)
    return Gate(
        condition.text, row.checkpoint, row.site, one.value, one.low, one.high, condition.beyond(one.value), surely
    )
