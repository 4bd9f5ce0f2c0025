"""The verdict on many checkpoints: one statement per finding, with those it is true of, in place of one per checkpoint.

The rules are those of `visprobe.analyses.verdict.verdict`; only the wording is shorter. Of pairs of descendants only
how many differ, and the pair that differs most, is said: 95 % intervals of many pairs exclude 0 now and then by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from visprobe.analyses.drift.moved import has_moved
from visprobe.analyses.drift.movement import movements, unseen_by_cka
from visprobe.results.read_site import what_is_read
from visprobe.results.result import Result, Row
from visprobe.results.statement import Statement, cka_text, digits_for, evidence, listed, share, sign_of, signed

MANY = 5  # descendants from which on statements are grouped

_MOVED = {
    "moved": "the tower moved, {what} ({site}) with it",
    "partly": "the tower moved, but not measurably at {what} ({site})",
    "unread": "the tower moved only where the language model does not read",
    "still": "the tower did not measurably move",
}
_SEES = {
    1: ("sees better than", "see better than"),
    -1: ("sees worse than", "see worse than"),
    0: ("is not measurably different from", "are not measurably different from"),
}
Text = Callable[[Row], str]


def grouped_drift(drift: Result, similarity: Result, names: Sequence[str], base: str) -> Iterator[Statement]:
    """Statements on where the representation of `names` moved."""
    found = movements(drift, names)
    for kind, words in _MOVED.items():
        rows = [one.lowest for one in found if one.kind == kind]
        if rows:
            words = words.format(what=what_is_read(drift), site=drift.settings.get("consumed"))
            yield _ranged(drift, rows, f"{words}; CKA at the least similar site", _cka_at)
    projected = [row for name in names for row in drift.select(checkpoint=name, site="projected", role="value")]
    for moved, words in ((True, "moved"), (False, "did not measurably move")):
        if rows := [row for row in projected if has_moved(drift, row) == moved]:
            yield _ranged(drift, rows, f"the projector's output {words}; CKA", lambda row: cka_text(row.estimate.value))
    unseen = [one for name in names for one in unseen_by_cka(drift, similarity, name, base)]
    for site in dict.fromkeys(row.site for row, _, _ in unseen):
        rows = [row for row, _, _ in unseen if row.site == site]
        words = f"at {site} units were permuted, rotated, scaled or shifted, which CKA does not see; relative error"
        yield _ranged(similarity, rows, words, lambda row: f"{row.estimate.value:.3g}")


def grouped_weights(weights: Result, names: Sequence[str]) -> Iterator[Statement]:
    """A statement on how far the towers' weights changed."""
    wanted = {"site": "tower", "measure": "matrix_change", "role": "value"}
    if rows := [row for name in names for row in weights.select(checkpoint=name, **wanted)]:
        yield _ranged(weights, rows, "median relative change of the weight matrices that changed (Frobenius)", share)


def grouped_sees(imagenet: Result, names: Sequence[str], reference: str, site: str, where: str) -> Iterator[Statement]:
    """Who sees better and who worse than the base at one site."""
    wanted = {"site": site, "measure": "top1", "role": "difference", "reference": reference}
    rows = [row for name in names for row in imagenet.select(checkpoint=name, **wanted)]
    for sign, (one, several) in _SEES.items():
        if group := [row for row in rows if sign_of(row.estimate) == sign]:
            verb = one if len(group) == 1 else several
            words = f"{_names(group)} {verb} {reference} {where}: difference in top-1"
            yield Statement(f"{words} {_range(group, _points)}.", evidence(imagenet, group))


def grouped_pairs(result: Result, names: Sequence[str], site: str, measure: str, what: str) -> Iterator[Statement]:
    """How many pairs of descendants differ, and which differs most."""
    rows = [row for row in result.select(site=site, measure=measure, role="difference")
            if row.checkpoint in names and row.reference in names]  # fmt: skip
    if not rows:
        return
    apart = [row for row in rows if sign_of(row.estimate)]
    text = f"Pairs of descendants that differ in {what} at {site}: {len(apart)} of {len(rows)}"
    if apart:
        most = max(apart, key=lambda row: abs(row.estimate.value))
        text += f", most {most.checkpoint} from {most.reference}: {_difference(most)}"
    by_chance = max(1, round(0.05 * len(rows)))
    text += f". Intervals are 95 % each: about {by_chance} would by chance."
    yield Statement(text, evidence(result, apart))


def _ranged(result: Result, rows: Sequence[Row], words: str, text: Text) -> Statement:
    return Statement(f"{_names(rows)}: {words} {_range(rows, text)}.", evidence(result, rows))


def _names(rows: Sequence[Row]) -> str:
    return listed([row.checkpoint for row in rows])


def _range(rows: Sequence[Row], text: Text) -> str:
    """The smallest and the largest value with whose they are."""
    least, most = (pick(rows, key=lambda row: row.estimate.value) for pick in (min, max))
    if least is most:
        return text(least)
    return f"from {text(least)} ({least.checkpoint}) to {text(most)} ({most.checkpoint})"


def _cka_at(row: Row) -> str:
    return f"{cka_text(row.estimate.value)} at {row.site}"


def _points(row: Row) -> str:
    return f"{signed(100 * row.estimate.value, 1)} points"


def _difference(row: Row) -> str:
    estimate = row.estimate
    if row.measure == "top1":
        return f"{_points(row)} [{signed(100 * estimate.low, 1)}, {signed(100 * estimate.high, 1)}]"
    digits = digits_for(estimate.low, estimate.high)
    return f"{signed(estimate.value, digits)} [{signed(estimate.low, digits)}, {signed(estimate.high, digits)}]"
