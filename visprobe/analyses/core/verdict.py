"""Verdict: sentences that follow from the results and claim no more than their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from visprobe.analyses.core.registry import presentations
from visprobe.results.result import Result
from visprobe.results.rules import MANY, Findings, Rule
from visprobe.results.statement import Statement

SCOPE = "This is about these checkpoints; about their recipes only several runs of each can speak."


def verdict(results: Sequence[Result], base: str) -> list[Statement]:
    """State how each descendant differs from the base, then each pair, then how they compare with the baselines.

    Each analysis brings its own rules (`visprobe.results.rules`); the built-in ones, each made from rows that
    are there and silent where they are not:

    - *not trained*: a tower in the settings "identical" of drift or weights is called identical, without further
      statements before the projector. One in the settings "rounded" of weights is called equal to the
      base's rounded to its dtype; rounding moves what the tower computes, so *moved* is decided as for the others.
    - *moved*: at a site, if it lies further from the base than six times the distance of "<base> (bfloat16)", or than
      0 where that baseline was not measured, with one error rate of 5 % for all sites of a checkpoint
      (`visprobe.analyses.drift.noise_floor`). Of the sites that moved, the one with the lowest CKA is named. Where the
      site that the language model reads has not moved, or only sites after it have, the statement says so.
    - *rotated*: at the consumed site and after the projector, if CKA has not moved and the interval of the relative
      error of analysis "similarity" lies above that of rounding times the root of six.
    - *weights*: how many weight matrices changed, the median relative change of those, and of those of the most changed
      group; share of equal weights; exact.
    - *sees better / worse*: if the interval of the paired top-1 difference excludes 0; else "not measurably
      different". At the consumed site and after the projector only, so that no best site is picked.
    - *further from the base*: of two descendants at the consumed site, if the interval of the paired CKA
      difference excludes 0. Where the relative error unit by unit says otherwise, and excludes 0, that is added.
    - *baseline*: a checkpoint whose paired top-1 difference to the untrained tower does not exclude 0, or whose
      interval reaches down to chance, is called out.
    - *answers*: "accuracy/all" beside the blind score; called better only if the paired difference to the blind
      answers excludes 0; paired differences as for top-1.
    - *same recipe*: how far another run of a recipe lies from the base where the language model reads.

    With five descendants or more the statements are grouped: one per finding, with those it is true of. Of their pairs
    only the number that differ and the one that differs most are named, since of many 95 % intervals some exclude 0
    by chance.

    Args:
        results: Any results.
        base: Name of the base checkpoint.

    Returns:
        The statements in reading order.
    """
    return [*_statements(_findings(results, base))]


def _findings(results: Sequence[Result], base: str) -> Findings:
    found = Findings({result.analysis: result for result in results}, base, (), ())
    weights = found["weights"].settings
    same = [*found["drift"].identical, *weights.get("identical", [])]
    # Computed in bfloat16, a base and its rounded copy have the same features.
    identical = [name for name in dict.fromkeys(same) if name not in weights.get("rounded", {})]
    values = (row for result in results for row in result.rows if row.role == "value")
    descendants = [name for name in dict.fromkeys([*identical, *(row.checkpoint for row in values)]) if name != base]
    return Findings(found.results, base, descendants, identical)


def _statements(findings: Findings) -> Iterator[Statement]:
    rules = _rules()
    if len(findings.descendants) >= MANY:
        for rule in rules:
            yield from rule.many(findings)
    else:
        for name in findings.descendants:
            for rule in rules:
                yield from rule.each(findings, name)
        for earlier, later in combinations(findings.descendants, 2):
            for rule in rules:
                yield from rule.pair(findings, later, earlier)
    for rule in rules:
        yield from rule.whole(findings)


def _rules() -> list[Rule]:
    return sorted((rule for shown in presentations().values() for rule in shown.rules), key=lambda rule: rule.place)


def headline(results: Sequence[Result], base: str) -> list[Statement]:
    """Sum up in one statement: whose tower moved, who sees better at the consumed site, who answers better.

    The rules are those of `verdict`, at the consumed site; missing analyses are left out.

    Args:
        results: Results of any analyses; only checkpoints of the result "drift" are named.
        base: Name of the base checkpoint.

    Returns:
        The statement, or an empty list where no descendant was measured.
    """
    by_name = {result.analysis: result for result in results}
    found = Findings(by_name, base, (), ())
    drift, rounded = found["drift"], found["weights"].rounded
    identical = [name for name in drift.identical if name not in rounded]
    names = [*dict.fromkeys([*identical, *(row.checkpoint for row in drift.rows if row.role == "value")])]
    said = [rule.clause(Findings(by_name, base, names, identical)) for rule in _rules()] if names else []
    clauses = [clause for clause in said if clause.text]
    if not clauses:
        return []
    refs = tuple(reference for clause in clauses for reference in clause.evidence)
    return [Statement(f"In short: {'; '.join(clause.text for clause in clauses)}. {SCOPE}", refs)]
