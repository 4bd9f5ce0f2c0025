"""What follows from the results, in sentences that claim no more than their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from visprobe.analyses.moved import has_moved
from visprobe.analyses.result import Estimate, Result, Row
from visprobe.features.feature_set import of_tower


@dataclass(frozen=True)
class Statement:
    """One sentence and the rows it rests on.

    Attributes:
        text: The sentence.
        evidence: Per row "analysis", "checkpoint", "site", "measure", "role" and, if it has one, "reference":
            with all but the first, `Result.select` finds the row.
    """

    text: str
    evidence: tuple[dict[str, str], ...]


def verdict(results: Sequence[Result], base: str) -> list[Statement]:
    """Statements on every descendant against the base, then on each pair of descendants, then on the floors.

    The rules, each made from rows that are there and silent where they are not:

    - *not trained*: a tower in the settings "identical" of drift or weights is said to be identical, and nothing
      else is said of it before the projector.
    - *moved*: at a site, if it lies further from the base than six times the distance of "<base> (bfloat16)", or than
      0 where that floor was not measured, with one error rate of 5 % for all sites of a checkpoint
      (`visprobe.analyses.moved`). Of the sites that moved, the one with the lowest CKA is named.
    - *weights*: relative change of the tower, its most changed group, share of equal weights; exact.
    - *sees better / worse*: if the interval of the paired top-1 difference excludes 0; else "not measurably
      different". At the consumed site and after the projector only, so that no best site is picked.
    - *further from the base*: of two descendants at the consumed site, if the interval of the paired CKA
      difference excludes 0.
    - *floor*: a top-1 interval that reaches down to the untrained tower's interval or to chance is called out.
    - *answers*: "accuracy/all" beside the blind score; called better only if its interval lies above the blind one;
      paired differences as for top-1.

    The intervals are 95 % each; with many sites and checkpoints some will miss.

    Args:
        results: Any of the results "drift", "weights", "imagenet" and "answers".
        base: Name of the base checkpoint.

    Returns:
        The statements in reading order.
    """
    by_name = {result.analysis: result for result in results}
    empty = Result("", "", ())
    drift, weights = by_name.get("drift", empty), by_name.get("weights", empty)
    imagenet, answers = by_name.get("imagenet", empty), by_name.get("answers", empty)
    identical = [*dict.fromkeys([*drift.settings.get("identical", []), *weights.settings.get("identical", [])])]
    values = (row for result in results for row in result.rows if row.role == "value")
    descendants = [name for name in dict.fromkeys([*identical, *(row.checkpoint for row in values)]) if name != base]
    statements: list[Statement] = []
    for name in descendants:
        if name in identical:
            statements.append(_not_trained(weights, name, base))
        else:
            statements += [*_tower_moved(drift, name, base), *_weights_changed(weights, name)]
        statements += [*_projector_moved(drift, name, base), *_sees(imagenet, drift, name, base, identical)]
    for earlier, later in combinations(descendants, 2):
        statements += [*_further(drift, later, earlier, base), *_sees(imagenet, drift, later, earlier, identical)]
    return [*statements, *_at_the_floor(imagenet), *_answered(answers)]


def _not_trained(weights: Result, name: str, base: str) -> Statement:
    rows = weights.select(checkpoint=name, site="tower", measure="share_equal")
    text = f"{name}: the vision tower is identical to {base}'s: not trained or not saved."
    return Statement(text, evidence(weights, rows))


def _tower_moved(drift: Result, name: str, base: str) -> Iterator[Statement]:
    rows = [row for row in drift.select(checkpoint=name, measure="cka", role="value") if of_tower(row.site)]
    if not rows:
        return
    moved = [row for row in rows if has_moved(drift, row)]
    lowest = min(moved or rows, key=lambda row: row.estimate.value)
    numbers, floor = _against_rounding(drift, lowest, base)
    if moved:
        where = "every site" if len(moved) == len(rows) else f"{len(moved)} of {len(rows)} sites"
        text = f"{name}: the tower moved at {where}; most at {lowest.site}: {numbers}."
    else:
        text = f"{name}: the tower did not measurably move; least like {base} at {lowest.site}: {numbers}."
    yield Statement(text, evidence(drift, [lowest, *floor]))


def _projector_moved(drift: Result, name: str, base: str) -> Iterator[Statement]:
    for row in drift.select(checkpoint=name, measure="cka", role="value", site="projected"):
        numbers, floor = _against_rounding(drift, row, base)
        verb = "moved" if has_moved(drift, row) else "did not measurably move"
        yield Statement(f"{name}: the projector's output {verb}: {numbers}.", evidence(drift, [row, *floor]))


def _rounding(drift: Result, site: str, base: str) -> list[Row]:
    return drift.select(checkpoint=f"{base} (bfloat16)", site=site, measure="cka", role="floor")


def _against_rounding(drift: Result, row: Row, base: str) -> tuple[str, list[Row]]:
    floor = _rounding(drift, row.site, base)
    against = f" against {cka_text(floor[0].estimate.value)} for bfloat16 rounding" if floor else ""
    return f"CKA {cka_interval(row.estimate)}{against}", floor


def _weights_changed(weights: Result, name: str) -> Iterator[Statement]:
    changes = weights.select(checkpoint=name, measure="relative_change", role="value")
    equal = weights.select(checkpoint=name, measure="share_equal", site="tower", role="value")
    tower = [row for row in changes if row.site == "tower"]
    apart = ("tower", "projector", *weights.settings.get("classes", []))
    groups = [row for row in changes if row.site not in apart]
    if tower and groups and equal:
        most = max(groups, key=lambda row: row.estimate.value)
        text = (
            f"{name}: the tower's weights changed by {share(tower[0])} of their norm, most in {most.site} "
            f"({share(most)}); {share(equal[0])} of them are exactly equal."
        )
        yield Statement(text, evidence(weights, [tower[0], most, equal[0]]))


def _further(drift: Result, later: str, earlier: str, base: str) -> Iterator[Statement]:
    wanted = {"checkpoint": later, "reference": earlier, "measure": "cka", "role": "difference"}
    for row in drift.select(**wanted, site=drift.settings.get("consumed")):
        sign = sign_of(row.estimate)
        distance = {-1: "is further from", 1: "is closer to", 0: "is not measurably further from or closer to"}[sign]
        ends = _digits(row.estimate.low, row.estimate.high)
        numbers = f"{_signed(row.estimate.value, ends)} [{_signed(row.estimate.low, ends)}, "
        text = (
            f"{later} {distance} {base} than {earlier} at {row.site}: "
            f"CKA difference {numbers}{_signed(row.estimate.high, ends)}]."
        )
        yield Statement(text, evidence(drift, [row]))


def _sees(imagenet: Result, drift: Result, name: str, reference: str, identical: Sequence[str]) -> Iterator[Statement]:
    """Paired top-1 difference at the two sites that matter, unless the features there are the same anyway."""
    consumed = imagenet.settings.get("consumed")
    sites = {consumed: f"at {consumed} (what the language model reads)", "projected": "after the projector"}
    for site, where in sites.items():
        untouched = name in identical and not drift.select(checkpoint=name, site=site, role="value")
        wanted = {"measure": "top1", "site": site}
        for row in imagenet.select(**wanted, checkpoint=name, reference=reference, role="difference"):
            own = imagenet.select(**wanted, checkpoint=name, role="value")
            other = imagenet.select(**wanted, checkpoint=reference, role="value")
            if own and other and not untouched:
                verb = {1: "sees better than", -1: "sees worse than", 0: "is not measurably different from"}
                yield Statement(
                    f"{name} {verb[sign_of(row.estimate)]} {reference} {where}: top-1 {compared(row, own, other)}.",
                    evidence(imagenet, [own[0], other[0], row]),
                )


def _at_the_floor(imagenet: Result) -> Iterator[Statement]:
    chance = imagenet.settings.get("chance", 0.0)
    for row in imagenet.select(measure="top1", role="value", site=imagenet.settings.get("consumed")):
        floors = imagenet.select(measure="top1", role="floor", site=row.site)
        reached = [floor for floor in floors if row.estimate.low <= floor.estimate.high]
        text = f"{row.checkpoint}'s top-1 at {row.site}, {_percent_interval(row.estimate)}, is not clearly above "
        if reached:
            floor = reached[0]
            text += f"that of the {floor.checkpoint} encoder, {_percent_interval(floor.estimate)}."
            yield Statement(text, evidence(imagenet, [row, floor]))
        elif row.estimate.low <= chance:
            yield Statement(f"{text}chance, {100 * chance:.1f} %.", evidence(imagenet, [row]))


def _answered(answers: Result) -> Iterator[Statement]:
    blind = answers.select(checkpoint="blind", measure="accuracy/all", role="floor")
    rows = answers.select(measure="accuracy/all", role="value")
    for row in rows:
        text = f"{row.checkpoint} answers {_percent_interval(row.estimate)} of {row.estimate.n} questions right"
        if blind:
            above = row.estimate.low > blind[0].estimate.high
            relation = "above" if above else "not clearly above"
            text += f", {relation} the {_percent_interval(blind[0].estimate)} of guessing without the image"
        yield Statement(f"{text}.", evidence(answers, [row, *blind]))
    for row in answers.select(measure="accuracy/all", role="difference"):
        own, other = ([one for one in rows if one.checkpoint == name] for name in (row.checkpoint, row.reference))
        if own and other:
            verb = {
                1: "answers better than",
                -1: "answers worse than",
                0: "does not answer measurably differently from",
            }
            text = f"{row.checkpoint} {verb[sign_of(row.estimate)]} {row.reference}: {compared(row, own, other)}."
            yield Statement(text, evidence(answers, [own[0], other[0], row]))


def sign_of(estimate: Estimate) -> int:
    """1 or -1 if the interval excludes 0, else 0."""
    return int(estimate.low > 0) - int(estimate.high < 0)


def evidence(result: Result, rows: Sequence[Row]) -> tuple[dict[str, str], ...]:
    """References to `rows` of `result`, as a statement carries them."""
    return tuple(
        {
            "analysis": result.analysis,
            "checkpoint": row.checkpoint,
            "site": row.site,
            "measure": row.measure,
            "role": row.role,
            **({"reference": row.reference} if row.reference else {}),
        }
        for row in rows
    )


def compared(row: Row, own: Sequence[Row], other: Sequence[Row]) -> str:
    """Two shares and their paired difference: "61.2 % against 60.0 %, difference +1.2 points [+0.3, +2.1]"."""
    e = row.estimate
    # An interval that excludes 0 must not be printed with an end of 0.0.
    digits = 2 if sign_of(e) and round(100 * min(abs(e.low), abs(e.high)), 1) == 0 else 1
    low, high = (_signed(100 * end, digits) for end in (e.low, e.high))
    points = f"{_signed(100 * e.value, digits)} points [{low}, {high}]"
    return f"{share(own[0])} against {share(other[0])}, difference {points}, n = {e.n}"


def share(row: Row) -> str:
    """A share in per cent: "61.2 %", with more digits where it is small."""
    value = 100 * row.estimate.value
    if 99.95 <= value < 100:
        return "more than 99.9 %"
    # Two significant digits below 0.1 %, so that a small relative change is not printed as none.
    return f"{value:.2g} %" if 0 < value < 0.1 else f"{value:.1f} %"


def _percent_interval(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def cka_interval(estimate: Estimate) -> str:
    """A CKA and its interval, with enough decimals to show how far from 1 it is: "0.981 [0.975, 0.987]"."""
    digits = _digits(estimate.value - 1, (estimate.high - estimate.low) / 2)
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def cka_text(value: float) -> str:
    """A CKA with enough decimals to show how far from 1 it is."""
    return f"{value:.{_digits(value - 1)}f}"


def _digits(*distances: float) -> int:
    """Decimals, 3 to 8, that show the first digit of the smallest of some distances from 0."""
    smallest = min((abs(distance) for distance in distances if distance), default=1.0)
    return min(8, max(3, math.ceil(-math.log10(smallest) - 1e-9)))


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
