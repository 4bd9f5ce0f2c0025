"""Sentences on each checkpoint's representation: moved, moved only where nothing reads it, or not moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from visprobe.analyses.core.grouped import pairs_apart, ranged
from visprobe.analyses.drift.noise_floor import furthest_noise_floor, has_moved
from visprobe.features.feature_set import of_tower
from visprobe.results.read_site import what_is_read
from visprobe.results.result import Result, Row
from visprobe.results.rules import Findings, Rule
from visprobe.results.statement import (
    Statement,
    cka_interval,
    cka_text,
    digits_for,
    evidence,
    listed,
    sign_of,
    signed,
)

Kind = Literal["moved", "partly", "unread", "still"]
_MANY = {
    "moved": "the tower moved, {what} ({site}) with it",
    "partly": "the tower moved, but not measurably at {what} ({site})",
    "unread": "the tower moved only where the language model does not read",
    "still": "the tower did not measurably move",
}


@dataclass(frozen=True)
class Movement:
    """Summary of the CKA of one descendant's tower with the base.

    Attributes:
        name: Name of the descendant.
        kind: "moved": what the language model reads has moved, or that site is unknown; "partly": only other
            sites have, some before it; "unread": only sites after it; "still": none.
        sites: Rows of all measured sites of the tower.
        moved: Rows of the sites that have moved.
        lowest: Row with the lowest CKA of those, or of all if none has moved.
    """

    name: str
    kind: Kind
    sites: tuple[Row, ...]
    moved: tuple[Row, ...]
    lowest: Row

    @property
    def where(self) -> str:
        """Number of the sites that have moved, in words."""
        whole = len(self.moved) == len(self.sites)
        return "every site" if whole else f"{len(self.moved)} of {len(self.sites)} sites"


def movements(drift: Result, names: Sequence[str]) -> list[Movement]:
    """Return the movement of each descendant whose tower has CKA rows."""
    found = []
    for name in names:
        rows = [row for row in drift.select(checkpoint=name, measure="cka", role="value") if of_tower(row.site)]
        if rows:
            moved = [row for row in rows if has_moved(drift, row)]
            lowest = min(moved or rows, key=lambda row: row.estimate.value)
            found.append(Movement(name, _kind(drift, rows, moved), tuple(rows), tuple(moved), lowest))
    return found


def _kind(drift: Result, rows: Sequence[Row], moved: Sequence[Row]) -> Kind:
    sites, consumed = [row.site for row in rows], drift.consumed
    if not moved:
        return "still"
    if consumed not in sites or consumed in {row.site for row in moved}:
        return "moved"
    return "unread" if all(sites.index(row.site) > sites.index(consumed) for row in moved) else "partly"


def movement_statement(drift: Result, movement: Movement, base: str) -> Statement:
    """State in one sentence what became of one descendant's tower."""
    numbers, baseline = against_rounding(drift, movement.lowest)
    at, consumed = f"at {movement.lowest.site}: {numbers}", drift.consumed
    text = {
        "moved": f"the tower moved at {movement.where}; most {at}.",
        "partly": f"the tower moved at {movement.where}, {what_is_read(drift)} ({consumed}) not measurably; most {at}.",
        "unread": "the tower moved only where the language model does not read "
        f"({listed([row.site for row in movement.moved])}); most {at}.",
        "still": f"the tower did not measurably move; least like {base} {at}.",
    }[movement.kind]
    return Statement(f"{movement.name}: {text}", evidence(drift, [movement.lowest, *baseline]))


def projector_statement(drift: Result, row: Row) -> Statement:
    """State in one sentence what became of the output of one descendant's projector."""
    numbers, baseline = against_rounding(drift, row)
    verb = "moved" if has_moved(drift, row) else "did not measurably move"
    return Statement(f"{row.checkpoint}: the projector's output {verb}: {numbers}.", evidence(drift, [row, *baseline]))


def against_rounding(drift: Result, row: Row) -> tuple[str, list[Row]]:
    """Format a CKA beside that of the furthest number-format baseline; return the latter's row too, if any."""
    found = furthest_noise_floor(drift, site=row.site, measure="cka")
    if found is None:
        return f"CKA {cka_interval(row.estimate)}", []
    baseline, words = found
    return f"CKA {cka_interval(row.estimate)} against {cka_text(baseline.estimate.value)} for {words}", [baseline]


def _movement(findings: Findings, name: str) -> Iterator[Statement]:
    if name not in findings.identical:
        drift = findings["drift"]
        yield from (movement_statement(drift, movement, findings.base) for movement in movements(drift, [name]))


def _projector(findings: Findings, name: str) -> Iterator[Statement]:
    drift = findings["drift"]
    for row in drift.select(checkpoint=name, measure="cka", role="value", site="projected"):
        yield projector_statement(drift, row)


def _many_moved(findings: Findings) -> Iterator[Statement]:
    drift, names = findings["drift"], findings.descendants
    found = movements(drift, names)
    for kind, words in _MANY.items():
        rows = [one.lowest for one in found if one.kind == kind]
        if rows:
            words = words.format(what=what_is_read(drift), site=drift.consumed)
            yield ranged(drift, rows, f"{words}; CKA at the least similar site", _cka_at)
    projected = [row for name in names for row in drift.select(checkpoint=name, site="projected", role="value")]
    for moved, words in ((True, "moved"), (False, "did not measurably move")):
        if rows := [row for row in projected if has_moved(drift, row) == moved]:
            yield ranged(drift, rows, f"the projector's output {words}; CKA", lambda row: cka_text(row.estimate.value))


def _cka_at(row: Row) -> str:
    return f"{cka_text(row.estimate.value)} at {row.site}"


def _further(findings: Findings, later: str, earlier: str) -> Iterator[Statement]:
    drift, base = findings["drift"], findings.base
    wanted = {"checkpoint": later, "reference": earlier, "role": "difference", "site": drift.consumed}
    for row in drift.select(**wanted, measure="cka"):
        sign = sign_of(row.estimate)
        distance = {-1: "is further from", 1: "is closer to", 0: "is not measurably further from or closer to"}[sign]
        text = f"{later} {distance} {base} than {earlier} at {row.site}: CKA difference {_interval(row)}"
        # A larger CKA is nearer, a larger error is further: equal signs, or one sign alone, are worth a clause.
        errors = findings["similarity"].select(**wanted, measure="relative_error")
        other = [error for error in errors if sign_of(error.estimate) not in (0, -sign)]
        if other:
            closer = "further from" if other[0].estimate.value > 0 else "closer to"
            text += f"; unit by unit it is {closer} it: difference in relative error {_interval(other[0])}"
        yield Statement(f"{text}.", (*evidence(drift, [row]), *evidence(findings["similarity"], other)))


def _interval(row: Row) -> str:
    ends = digits_for(row.estimate.low, row.estimate.high)
    value, low, high = (signed(end, ends) for end in (row.estimate.value, row.estimate.low, row.estimate.high))
    return f"{value} [{low}, {high}]"


def _pairs(findings: Findings) -> Iterator[Statement]:
    drift = findings["drift"]
    consumed = findings["imagenet"].settings.get("consumed", drift.settings.get("consumed", ""))
    yield from pairs_apart(drift, findings.trained, consumed, "cka", f"how far they are from {findings.base}")


def untouched(findings: Findings, name: str, site: str) -> bool:
    """Return True if a checkpoint's features at a site equal the base's to the bit."""
    return name in findings.identical and not findings["drift"].select(checkpoint=name, site=site, role="value")


def _in_short(findings: Findings) -> Statement:
    drift, names, identical = findings["drift"], findings.descendants, findings.identical
    site = drift.consumed
    rows = {name: drift.select(checkpoint=name, site=site, measure="cka", role="value") for name in names}
    moved = [name for name in names if any(has_moved(drift, row) for row in rows[name])]
    still = [name for name in names if name not in moved and name not in identical]
    parts = []
    if moved:
        parts.append(f"{listed(moved)} moved {what_is_read(drift)}")
    if still:
        parts.append(f"{listed(still)} did not measurably move {what_is_read(drift)}")
    if identical:
        parts.append(f"{listed(identical)} left the tower as it was (not trained or not saved)")
    return Statement(", ".join(parts), evidence(drift, [row for name in names for row in rows[name]]))


def _same_recipe(findings: Findings) -> Iterator[Statement]:
    """State how far each other run of a recipe, a baseline of the comparison, lies from the base."""
    drift = findings["drift"]
    for row in drift.select(site=drift.consumed, measure="cka", baseline="recipe"):
        text = (
            f"{row.checkpoint}: CKA {cka_interval(row.estimate)} to {findings.base} at {row.site}. A difference "
            "between checkpoints that is no larger than one between runs of one recipe is not about recipes."
        )
        yield Statement(text, evidence(drift, [row]))


RULES = (
    Rule(20, each=_movement, many=_many_moved, clause=_in_short),
    Rule(40, each=_projector, pair=_further),
    Rule(70, many=_pairs),
    Rule(90, whole=_same_recipe),
)
