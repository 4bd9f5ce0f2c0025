"""The verdict in one sentence, for those who read one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from visprobe.analyses.moved import has_moved
from visprobe.analyses.result import Result, Row
from visprobe.analyses.statement import Statement, evidence, listed, sign_of

SCOPE = "This is about these checkpoints; about their recipes only several runs of each can speak."
FEW = 3  # pairs that one sentence can name
SEES = {1: "better than", -1: "worse than", 0: "not measurably different from"}


def headline(results: Sequence[Result], base: str) -> list[Statement]:
    """One statement: who moved the tower, who sees better at what the language model reads, who differs from whom.

    The rules are those of `verdict`, at the consumed site; nothing is said of an analysis that is not there.

    Args:
        results: Any of the results "drift", "weights" and "imagenet".
        base: Name of the base checkpoint.

    Returns:
        The statement, or nothing where no descendant was measured.
    """
    by_name = {result.analysis: result for result in results}
    empty = Result("", "", ())
    drift, imagenet = by_name.get("drift", empty), by_name.get("imagenet", empty)
    identical = [*drift.settings.get("identical", [])]
    names = [*dict.fromkeys([*identical, *(row.checkpoint for row in drift.rows if row.role == "value")])]
    clauses = [clause for clause in (_moved(drift, names, identical), _seeing(imagenet, names, base)) if clause[0]]
    if not names or not clauses:
        return []
    text = "; ".join(clause for clause, _, _ in clauses)
    refs = tuple(reference for _, result, rows in clauses for reference in evidence(result, rows))
    return [Statement(f"In short: {text}. {SCOPE}", refs)]


def _moved(drift: Result, names: Sequence[str], identical: Sequence[str]) -> tuple[str, Result, list[Row]]:
    site = drift.settings.get("consumed")
    rows = {name: drift.select(checkpoint=name, site=site, measure="cka", role="value") for name in names}
    moved = [name for name in names if any(has_moved(drift, row) for row in rows[name])]
    still = [name for name in names if name not in moved and name not in identical]
    parts = []
    if moved:
        parts.append(f"{listed(moved)} moved what the language model reads")
    if still:
        parts.append(f"{listed(still)} did not measurably move what the language model reads")
    if identical:
        parts.append(f"{listed(identical)} left the tower as it was (not trained or not saved)")
    return ", ".join(parts), drift, [row for name in names for row in rows[name]]


def _seeing(imagenet: Result, names: Sequence[str], base: str) -> tuple[str, Result, list[Row]]:
    wanted = {"site": imagenet.settings.get("consumed"), "measure": "top1", "role": "difference"}
    to_base = [row for name in names for row in imagenet.select(**wanted, checkpoint=name, reference=base)]
    parts = []
    for sign, words in SEES.items():
        group = [row.checkpoint for row in to_base if sign_of(row.estimate) == sign]
        if group:
            parts.append(f"{listed(group)} {'sees' if len(group) == 1 else 'see'} {words} {base}" if sign else
                         f"{listed(group)} {'is' if len(group) == 1 else 'are'} {words} {base}")  # fmt: skip
    pairs = [
        row for one, two in combinations(names, 2) for row in imagenet.select(**wanted, checkpoint=two, reference=one)
    ]
    apart = [row for row in pairs if sign_of(row.estimate)]
    if len(apart) <= FEW:
        parts += [f"{row.checkpoint} sees {SEES[sign_of(row.estimate)]} {row.reference}" for row in apart]
    else:
        parts.append(f"{len(apart)} of {len(pairs)} pairs of them differ")
    if pairs and not apart:
        parts.append("they do not differ measurably from each other" if len(names) > 2 else
                     f"{names[0]} and {names[1]} do not differ measurably")  # fmt: skip
    return ", ".join(parts), imagenet, [*to_base, *pairs]
