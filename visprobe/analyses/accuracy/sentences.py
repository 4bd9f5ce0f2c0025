"""Sentences on which checkpoints see better and which worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from visprobe.analyses.core.grouped import names_of, pairs_apart, points_of, span
from visprobe.analyses.drift.sentences import untouched
from visprobe.results.read_site import what_is_read
from visprobe.results.result import Result, Row
from visprobe.results.rules import Findings, Rule
from visprobe.results.statement import (
    Statement,
    above_baseline,
    compared,
    evidence,
    listed,
    percent_interval,
    points,
    sign_of,
)

FEW = 3  # at most so many pairs are named in one sentence
# By the sign of a difference, for one checkpoint and for several.
SEES = {
    1: ("sees better than", "see better than"),
    -1: ("sees worse than", "see worse than"),
    0: ("is not measurably different from", "are not measurably different from"),
}


def _sees_than_base(findings: Findings, name: str) -> Iterator[Statement]:
    yield from _sees(findings, name, findings.base)


def _sees(findings: Findings, name: str, reference: str) -> Iterator[Statement]:
    """State the paired top-1 difference at the sites that matter, unless the features there are the base's."""
    imagenet = findings["imagenet"]
    for site, where in _read(imagenet, imagenet.consumed).items():
        wanted = {"measure": "top1", "site": site}
        for row in imagenet.select(**wanted, checkpoint=name, reference=reference, role="difference"):
            own = imagenet.select(**wanted, checkpoint=name, role="value")
            other = imagenet.select(**wanted, checkpoint=reference, role="value")
            if own and other and not untouched(findings, name, site):
                yield Statement(
                    f"{name} {SEES[sign_of(row.estimate)][0]} {reference} {where}: top-1 {compared(row, own, other)}.",
                    evidence(imagenet, [own[0], other[0], row]),
                )


def _read(result: Result, consumed: str | None) -> dict[str, str]:
    """Return the two sites that matter and their names in sentences."""
    return {str(consumed): f"at {consumed} ({what_is_read(result)})", "projected": "after the projector"}


def _see(findings: Findings) -> Iterator[Statement]:
    imagenet = findings["imagenet"]
    consumed = imagenet.settings.get("consumed", findings["drift"].settings.get("consumed", ""))
    for site, where in _read(imagenet, consumed).items():
        touched = [name for name in findings.descendants if not untouched(findings, name, site)]
        yield from _many_see(imagenet, touched, findings.base, site, where)
        yield from pairs_apart(imagenet, touched, site, "top1", "top-1")


def _many_see(imagenet: Result, names: Sequence[str], reference: str, site: str, where: str) -> Iterator[Statement]:
    """State which checkpoints see better and which worse than the base at one site."""
    wanted = {"site": site, "measure": "top1", "role": "difference", "reference": reference}
    rows = [row for name in names for row in imagenet.select(checkpoint=name, **wanted)]
    for sign, (one, several) in SEES.items():
        if group := [row for row in rows if sign_of(row.estimate) == sign]:
            verb = one if len(group) == 1 else several
            words = f"{names_of(group)} {verb} {reference} {where}: difference in top-1"
            yield Statement(f"{words} {span(group, points_of)}.", evidence(imagenet, group))


def _not_above_baseline(findings: Findings) -> Iterator[Statement]:
    imagenet = findings["imagenet"]
    chance = imagenet.chance or 0.0
    for row in imagenet.select(measure="top1", role="value", site=imagenet.consumed):
        baselines = imagenet.select(measure="top1", role="baseline", site=row.site)
        found = ((baseline, above_baseline(imagenet, row, baseline.checkpoint)) for baseline in baselines)
        reached = [(baseline, difference[1]) for baseline, difference in found if difference and not difference[0]]
        text = f"{row.checkpoint}'s top-1 at {row.site}, {percent_interval(row.estimate)}, is not clearly above "
        if reached:
            baseline, difference = reached[0]
            text += f"that of the {baseline.checkpoint} encoder, {percent_interval(baseline.estimate)}: {difference}."
            yield Statement(text, evidence(imagenet, [row, baseline]))
        elif row.estimate.low <= chance:
            yield Statement(f"{text}chance, {100 * chance:.1f} %.", evidence(imagenet, [row]))


def _in_short(findings: Findings) -> Statement:
    imagenet, names, base = findings["imagenet"], findings.descendants, findings.base
    wanted = {"site": imagenet.consumed, "measure": "top1"}
    differences = {**wanted, "role": "difference"}
    to_base = [row for name in names for row in imagenet.select(**differences, checkpoint=name, reference=base)]
    parts = [*_at_the_baseline(imagenet, [base, *names], wanted), *against_base(to_base, base, SEES)]
    pairs = [
        row
        for one, two in combinations(names, 2)
        for row in imagenet.select(**differences, checkpoint=two, reference=one)
    ]
    apart = [row for row in pairs if sign_of(row.estimate)]
    if len(apart) <= FEW:
        parts += [
            f"{row.checkpoint} {SEES[sign_of(row.estimate)][0]} {row.reference} ({points(row.estimate)})"
            for row in apart
        ]
    else:
        parts.append(f"{len(apart)} of {len(pairs)} pairs of them differ")
    if pairs and not apart:
        parts.append("they do not differ measurably from each other" if len(names) > 2 else
                     f"{names[0]} and {names[1]} do not differ measurably")  # fmt: skip
    return Statement(", ".join(parts), evidence(imagenet, [*to_base, *pairs]))


def _at_the_baseline(imagenet: Result, names: Sequence[str], wanted: Mapping[str, str | None]) -> Iterator[str]:
    """State that no checkpoint is clearly above an untrained tower: equal accuracies then mean nothing."""
    baselines = imagenet.select(**wanted, role="baseline", baseline="untrained")
    own = [row for name in names for row in imagenet.select(**wanted, role="value", checkpoint=name)]
    against = [above_baseline(imagenet, row, baselines[0].checkpoint) for row in own] if baselines else []
    if any(against) and not any(found and found[0] for found in against):
        yield "none of them clearly tells these classes apart better than an untrained tower"


def against_base(rows: Sequence[Row], base: str, words: Mapping[int, tuple[str, str]]) -> Iterator[str]:
    """Yield which checkpoints are better, worse or not measurably different from the base."""
    for sign, said in words.items():
        group = [row for row in rows if sign_of(row.estimate) == sign]
        if not group:
            continue
        names = [f"{row.checkpoint} ({points(row.estimate)})" if sign else row.checkpoint for row in group]
        yield f"{listed(names)} {said[len(group) > 1]} {base}"


RULES = (Rule(60, each=_sees_than_base, pair=_sees, many=_see, whole=_not_above_baseline, clause=_in_short),)
