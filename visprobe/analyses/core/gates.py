"""Conditions on results that fail a run, so that a training pipeline can stop by itself."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from visprobe.errors import UsageError
from visprobe.results.result import Estimate, Result, Row

DRIFT = "drift"  # 1 − CKA: users ask how far something moved
EVERYWHERE = "any"
_COMPARE = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_FORM = re.compile(
    r"(?P<what>[^<>]+?)\s*(?P<sign><=|>=|<|>)\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*(?P<percent>%?)"
)
_TYPED = str.maketrans({"−": "-", "≤": "<=", "≥": ">=", "\u202f": " ", "\u00a0": " "})  # signs that tables print
_BASE = "-base"
_ONE_PART = "swap"  # its sites name the parts exchanged
HINT = "Write MEASURE>NUMBER, as in 'drift>0.05', 'cka@projected<0.99' or 'top1-base<-1%'; visprobe list measures."


@dataclass(frozen=True)
class Condition:
    """Condition that fails a run.

    Attributes:
        text: The condition as it was written.
        measure: Measure of a row ("top1", "cka"), or `DRIFT`.
        difference: True for the paired difference to the base, False for the value.
        site: Name of the site; None for the one that the language model reads, `EVERYWHERE` for any.
        sign: "<", ">", "<=" or ">=".
        number: Threshold, in the unit of the row.
    """

    text: str
    measure: str
    difference: bool
    site: str | None
    sign: str
    number: float

    def beyond(self, value: float) -> bool:
        """Return True if `value` meets the condition."""
        return bool(_COMPARE[self.sign](value, self.number))


@dataclass(frozen=True)
class Gate:
    """Outcome of a condition for one checkpoint at one site.

    Attributes:
        condition: The condition as it was written.
        checkpoint: Name of the checkpoint.
        site: Name of the site.
        value: Value that was measured.
        low: Lower end of its interval.
        high: Upper end of its interval.
        beyond: True if the value meets the condition.
        tripped: True if its whole interval does: then it is not only by chance.
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
    """Parse a condition: MEASURE[-base][@SITE] SIGN NUMBER[%].

    Raises:
        UsageError: If the text is no condition.
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
    """Judge every condition for every checkpoint that it is about.

    Args:
        conditions: Conditions that fail a run.
        results: Results of the run.

    Returns:
        Outcomes, in the order of the conditions.

    Raises:
        UsageError: If a condition is about something that was not measured.
    """
    return tuple(gate for condition in conditions for gate in _outcomes(condition, results))


def _outcomes(condition: Condition, results: Sequence[Result]) -> Iterable[Gate]:
    measured = dict.fromkeys(row.measure for result in results for row in result.rows if row.role != "baseline")
    if condition.difference and condition.measure + _BASE in measured:  # a measure may itself end in "-base"
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
    """Yield the rows that a condition is about, CKA turned into drift where it asks for that."""
    measure = "cka" if condition.measure == DRIFT else condition.measure
    read = result.consumed
    sites = {row.site for row in result.rows if row.measure == measure}
    site = condition.site or (read if read in sites and result.analysis != _ONE_PART else None)
    rows = result.select(measure=measure, role="difference" if condition.difference else "value")
    for row in [*rows, *(_unmoved(result, site) if measure == "cka" and not condition.difference else ())]:
        at = site is None or site in (EVERYWHERE, row.site) or (site == "consumed" and row.site == read)
        # Differences between two descendants answer another question.
        if at and (not condition.difference or row.reference == result.settings.get("base", row.reference)):
            yield replace(row, estimate=_one_minus(row.estimate)) if condition.measure == DRIFT else row


def _unmoved(result: Result, site: str | None) -> Iterator[Row]:
    """Yield rows for checkpoints without drift rows, because their features are the base's to the bit."""
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
