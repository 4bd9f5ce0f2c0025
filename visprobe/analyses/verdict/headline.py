"""The verdict in one sentence, for those who read one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from visprobe.analyses.drift.moved import has_moved
from visprobe.results.read_site import what_is_read
from visprobe.results.result import Result, Row
from visprobe.results.statement import Statement, above_floor, evidence, listed, points, sign_of

SCOPE = "This is about these checkpoints; about their recipes only several runs of each can speak."
FEW = 3  # pairs that one sentence can name
UNTRAINED = "untrained"
# By the sign of a difference, of one checkpoint and of several.
SEES = {
    1: ("sees better than", "see better than"),
    -1: ("sees worse than", "see worse than"),
    0: ("is not measurably different from", "are not measurably different from"),
}
ANSWERS = {
    1: ("answers better than", "answer better than"),
    -1: ("answers worse than", "answer worse than"),
    0: ("does not answer measurably differently from", "do not answer measurably differently from"),
}
Clause = tuple[str, Result, list[Row]]  # what is said, of which result, resting on which rows


def headline(results: Sequence[Result], base: str) -> list[Statement]:
    """One statement: who moved the tower, who sees better at what the language model reads, and who answers better.

    The rules are those of `verdict`, at the consumed site; nothing is said of an analysis that is not there.

    Args:
        results: Any of the results "drift", "weights", "imagenet" and "answers".
        base: Name of the base checkpoint.

    Returns:
        The statement, or nothing where no descendant was measured.
    """
    by_name = {result.analysis: result for result in results}
    empty = Result("", "", ())
    drift, imagenet, answers = (by_name.get(name, empty) for name in ("drift", "imagenet", "answers"))
    rounded = by_name.get("weights", empty).settings.get("rounded", {})
    identical = [name for name in drift.settings.get("identical", []) if name not in rounded]
    names = [*dict.fromkeys([*identical, *(row.checkpoint for row in drift.rows if row.role == "value")])]
    said = (_moved(drift, names, identical), _seeing(imagenet, names, base), _answering(answers, names, base))
    clauses = [clause for clause in said if clause[0]]
    if not names or not clauses:
        return []
    text = "; ".join(clause for clause, _, _ in clauses)
    refs = tuple(reference for _, result, rows in clauses for reference in evidence(result, rows))
    return [Statement(f"In short: {text}. {SCOPE}", refs)]


def _moved(drift: Result, names: Sequence[str], identical: Sequence[str]) -> Clause:
    site = drift.settings.get("consumed")
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
    return ", ".join(parts), drift, [row for name in names for row in rows[name]]


def _seeing(imagenet: Result, names: Sequence[str], base: str) -> Clause:
    wanted = {"site": imagenet.settings.get("consumed"), "measure": "top1"}
    differences = {**wanted, "role": "difference"}
    to_base = [row for name in names for row in imagenet.select(**differences, checkpoint=name, reference=base)]
    parts = [*_at_the_floor(imagenet, [base, *names], wanted), *_against(to_base, base, SEES)]
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
    return ", ".join(parts), imagenet, [*to_base, *pairs]


def _at_the_floor(imagenet: Result, names: Sequence[str], wanted: Mapping[str, str | None]) -> Iterator[str]:
    """Where nobody is clearly above an untrained tower, equal accuracies say nothing of who sees better."""
    floors = imagenet.select(**wanted, role="floor", checkpoint=UNTRAINED)
    own = [row for name in names for row in imagenet.select(**wanted, role="value", checkpoint=name)]
    against = [above_floor(imagenet, row, floors[0].checkpoint) for row in own] if floors else []
    if any(against) and not any(found and found[0] for found in against):
        yield "none of them clearly tells these classes apart better than an untrained tower"


def _answering(answers: Result, names: Sequence[str], base: str) -> Clause:
    wanted = {"measure": "accuracy/all", "role": "difference", "reference": base}
    rows = [row for name in names for row in answers.select(**wanted, checkpoint=name)]
    return ", ".join(_against(rows, base, ANSWERS)), answers, rows


def _against(rows: Sequence[Row], base: str, words: Mapping[int, tuple[str, str]]) -> Iterator[str]:
    """Who is better, worse or not measurably different from the base, with the differences that are measurable."""
    for sign, said in words.items():
        group = [row for row in rows if sign_of(row.estimate) == sign]
        if not group:
            continue
        names = [f"{row.checkpoint} ({points(row.estimate)})" if sign else row.checkpoint for row in group]
        yield f"{listed(names)} {said[len(group) > 1]} {base}"
