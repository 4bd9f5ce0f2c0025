"""What follows from the results, in sentences that claim no more than their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from visprobe.analyses.drift.movement import movement_statement, movements, projector_statement, rotation_statements
from visprobe.analyses.verdict.group_verdict import MANY, grouped_drift, grouped_pairs, grouped_sees, grouped_weights
from visprobe.results.read_site import what_is_read
from visprobe.results.result import Result, Row
from visprobe.results.statement import (
    Statement,
    above_floor,
    cka_interval,
    cka_text,
    compared,
    digits_for,
    evidence,
    listed,
    percent_interval,
    share,
    sign_of,
    signed,
)

FEW = 3  # groups that are all named
__all__ = ["Statement", "cka_interval", "cka_text", "compared", "evidence", "share", "sign_of", "verdict"]


def verdict(results: Sequence[Result], base: str) -> list[Statement]:
    """Statements on every descendant against the base, then on each pair of descendants, then on the floors.

    The rules, each made from rows that are there and silent where they are not:

    - *not trained*: a tower in the settings "identical" of drift or weights is said to be identical, and nothing
      else is said of it before the projector. One in the settings "rounded" of weights is said to be equal to the
      base's rounded to its dtype; rounding moves what the tower computes, so *moved* is decided as for the others.
    - *moved*: at a site, if it lies further from the base than six times the distance of "<base> (bfloat16)", or than
      0 where that floor was not measured, with one error rate of 5 % for all sites of a checkpoint
      (`visprobe.analyses.drift.moved`). Of the sites that moved, the one with the lowest CKA is named. Where the site
      that the language model reads has not moved, that is said, and where only sites after it have, that.
    - *rotated*: at the consumed site and after the projector, if CKA has not moved and the interval of the relative
      error of analysis "similarity" lies above that of rounding times the root of six.
    - *weights*: how many weight matrices changed, the median relative change of those, and of those of the most changed
      group; share of equal weights; exact.
    - *sees better / worse*: if the interval of the paired top-1 difference excludes 0; else "not measurably
      different". At the consumed site and after the projector only, so that no best site is picked.
    - *further from the base*: of two descendants at the consumed site, if the interval of the paired CKA
      difference excludes 0. Where the relative error unit by unit says otherwise, and excludes 0, that is added.
    - *floor*: a checkpoint whose paired top-1 difference to the untrained tower does not exclude 0, or whose interval
      reaches down to chance, is called out.
    - *answers*: "accuracy/all" beside the blind score; called better only if the paired difference to the blind
      answers excludes 0; paired differences as for top-1.

    Of five descendants or more the statements are grouped (`visprobe.analyses.verdict.group_verdict`). The intervals
    are 95 % each; with many checkpoints some will miss.

    Args:
        results: Any of the results "drift", "weights", "imagenet", "similarity" and "answers".
        base: Name of the base checkpoint.

    Returns:
        The statements in reading order.
    """
    by_name = {result.analysis: result for result in results}
    drift, weights, imagenet, answers, similarity = (
        by_name.get(name, Result(name, "", ())) for name in ("drift", "weights", "imagenet", "answers", "similarity")
    )
    same = [*drift.settings.get("identical", []), *weights.settings.get("identical", [])]
    # computed with in bfloat16, a base and its rounded copy have the same features
    identical = [name for name in dict.fromkeys(same) if name not in weights.settings.get("rounded", {})]
    values = (row for result in results for row in result.rows if row.role == "value")
    descendants = [name for name in dict.fromkeys([*identical, *(row.checkpoint for row in values)]) if name != base]
    if len(descendants) >= MANY:
        statements = [*_grouped(drift, weights, imagenet, similarity, descendants, identical, base)]
    else:
        statements = [*_one_by_one(drift, weights, imagenet, similarity, descendants, identical, base)]
    return [*statements, *_at_the_floor(imagenet), *_answered(answers)]


def _one_by_one(
    drift: Result, weights: Result, imagenet: Result, similarity: Result,
    descendants: Sequence[str], identical: Sequence[str], base: str,
) -> Iterator[Statement]:  # fmt: skip
    for name in descendants:
        if name in identical:
            yield _not_trained(weights, [name], base)
        else:
            yield from (movement_statement(drift, movement, base) for movement in movements(drift, [name]))
            yield from _rounded(weights, [name], base)
            yield from _weights_changed(weights, name)
        for row in drift.select(checkpoint=name, measure="cka", role="value", site="projected"):
            yield projector_statement(drift, row, base)
        yield from rotation_statements(drift, similarity, name, base)
        yield from _sees(imagenet, drift, name, base, identical)
    for earlier, later in combinations(descendants, 2):
        yield from _further(drift, similarity, later, earlier, base)
        yield from _sees(imagenet, drift, later, earlier, identical)


def _grouped(
    drift: Result, weights: Result, imagenet: Result, similarity: Result,
    descendants: Sequence[str], identical: Sequence[str], base: str,
) -> Iterator[Statement]:  # fmt: skip
    trained = [name for name in descendants if name not in identical]
    if identical:
        yield _not_trained(weights, identical, base)
    yield from grouped_drift(drift, similarity, descendants, base)
    yield from _rounded(weights, trained, base)
    yield from grouped_weights(weights, [name for name in trained if name not in weights.settings.get("rounded", {})])
    consumed = imagenet.settings.get("consumed", drift.settings.get("consumed", ""))
    for site, where in _read(imagenet, consumed).items():
        touched = [name for name in descendants if not _untouched(drift, name, site, identical)]
        yield from grouped_sees(imagenet, touched, base, site, where)
        yield from grouped_pairs(imagenet, touched, site, "top1", "top-1")
    yield from grouped_pairs(drift, trained, consumed, "cka", f"how far they are from {base}")


def _not_trained(weights: Result, names: Sequence[str], base: str) -> Statement:
    return _equal(weights, names, f"identical to {base}'s: not trained or not saved")


def _rounded(weights: Result, names: Sequence[str], base: str) -> Iterator[Statement]:
    """Which of `names` are copies of the base in a coarser dtype, by dtype."""
    rounded = weights.settings.get("rounded", {})
    for kind in dict.fromkeys(rounded.values()):
        if own := [name for name in names if rounded.get(name) == kind]:
            yield _equal(weights, own, f"equal to {base}'s rounded to {kind}: beyond the rounding nothing changed")


def _equal(weights: Result, names: Sequence[str], how: str) -> Statement:
    rows = [row for name in names for row in weights.select(checkpoint=name, site="tower", measure="share_equal")]
    tower = "the vision tower is" if len(names) == 1 else "their vision towers are"
    return Statement(f"{listed(names)}: {tower} {how}.", evidence(weights, rows))


def _weights_changed(weights: Result, name: str) -> Iterator[Statement]:
    own = {"checkpoint": name, "role": "value"}
    changes = weights.select(**own, measure="matrix_change")
    tower = [row for row in changes if row.site == "tower"]
    share_changed = weights.select(**own, measure="matrices_changed", site="tower")
    equal = weights.select(**own, measure="share_equal", site="tower")
    apart = ("tower", "projector", *weights.settings.get("classes", []))
    groups = [row for row in changes if row.site not in apart and row.estimate.value > 0]
    if name in weights.settings.get("rounded", {}) or not (tower and share_changed and equal):
        return
    all_of_them = share_changed[0].estimate
    count = f"{round(all_of_them.value * all_of_them.n)} of {all_of_them.n}"
    text = f"{name}: {count} weight matrices of the tower changed"
    most = max(groups, key=lambda row: row.estimate.value, default=None)
    if most:
        where = f"in {listed([row.site for row in groups])}" if len(groups) <= FEW else f"most in {most.site}"
        text += f", by {share(tower[0])} in the median of those (‖ΔW‖ / ‖W‖, Frobenius), {where} ({share(most)})"
    text += f"; {share(equal[0])} of all its weights are exactly equal."
    yield Statement(text, evidence(weights, [tower[0], *share_changed, *([most] if most else []), equal[0]]))


def _further(drift: Result, similarity: Result, later: str, earlier: str, base: str) -> Iterator[Statement]:
    wanted = {"checkpoint": later, "reference": earlier, "role": "difference", "site": drift.settings.get("consumed")}
    for row in drift.select(**wanted, measure="cka"):
        sign = sign_of(row.estimate)
        distance = {-1: "is further from", 1: "is closer to", 0: "is not measurably further from or closer to"}[sign]
        text = f"{later} {distance} {base} than {earlier} at {row.site}: CKA difference {_interval(row)}"
        # A larger CKA is nearer, a larger error is further: equal signs, or one sign alone, are worth a clause.
        other = [
            e for e in similarity.select(**wanted, measure="relative_error") if sign_of(e.estimate) not in (0, -sign)
        ]
        if other:
            closer = "further from" if other[0].estimate.value > 0 else "closer to"
            text += f"; unit by unit it is {closer} it: difference in relative error {_interval(other[0])}"
        yield Statement(f"{text}.", (*evidence(drift, [row]), *evidence(similarity, other)))


def _interval(row: Row) -> str:
    ends = digits_for(row.estimate.low, row.estimate.high)
    value, low, high = (signed(end, ends) for end in (row.estimate.value, row.estimate.low, row.estimate.high))
    return f"{value} [{low}, {high}]"


def _sees(imagenet: Result, drift: Result, name: str, reference: str, identical: Sequence[str]) -> Iterator[Statement]:
    """Paired top-1 difference at the two sites that matter, unless the features there are the same anyway."""
    for site, where in _read(imagenet, imagenet.settings.get("consumed")).items():
        untouched = _untouched(drift, name, site, identical)
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


def _read(result: Result, consumed: str | None) -> dict[str, str]:
    """The two sites that matter, and how a sentence calls them."""
    return {str(consumed): f"at {consumed} ({what_is_read(result)})", "projected": "after the projector"}


def _untouched(drift: Result, name: str, site: str, identical: Sequence[str]) -> bool:
    return name in identical and not drift.select(checkpoint=name, site=site, role="value")


def _at_the_floor(imagenet: Result) -> Iterator[Statement]:
    chance = imagenet.settings.get("chance", 0.0)
    for row in imagenet.select(measure="top1", role="value", site=imagenet.settings.get("consumed")):
        floors = imagenet.select(measure="top1", role="floor", site=row.site)
        found = ((floor, above_floor(imagenet, row, floor.checkpoint)) for floor in floors)
        reached = [(floor, difference[1]) for floor, difference in found if difference and not difference[0]]
        text = f"{row.checkpoint}'s top-1 at {row.site}, {percent_interval(row.estimate)}, is not clearly above "
        if reached:
            floor, difference = reached[0]
            text += f"that of the {floor.checkpoint} encoder, {percent_interval(floor.estimate)}: {difference}."
            yield Statement(text, evidence(imagenet, [row, floor]))
        elif row.estimate.low <= chance:
            yield Statement(f"{text}chance, {100 * chance:.1f} %.", evidence(imagenet, [row]))


def _answered(answers: Result) -> Iterator[Statement]:
    blind = answers.select(checkpoint="blind", measure="accuracy/all", role="floor")
    rows = answers.select(measure="accuracy/all", role="value")
    for row in rows:
        text = f"{row.checkpoint} answers {percent_interval(row.estimate)} of {row.estimate.n} questions right"
        against = above_floor(answers, row, "blind")
        if blind and against:
            relation = "above" if against[0] else "not clearly above"
            text += f", {relation} the {percent_interval(blind[0].estimate)} of guessing without the image"
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
