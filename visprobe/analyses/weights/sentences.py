"""Sentences on how far the weights of each tower changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from visprobe.analyses.core.grouped import ranged
from visprobe.results.result import Result
from visprobe.results.rules import Findings, Rule
from visprobe.results.statement import Statement, evidence, listed, share

FEW = 3  # at most so many groups are all named


def _identity(findings: Findings, name: str) -> Iterator[Statement]:
    if name in findings.identical:
        yield _not_trained(findings["weights"], [name], findings.base)


def _identities(findings: Findings) -> Iterator[Statement]:
    if findings.identical:
        yield _not_trained(findings["weights"], findings.identical, findings.base)


def _change(findings: Findings, name: str) -> Iterator[Statement]:
    if name not in findings.identical:
        yield from _rounded(findings["weights"], [name], findings.base)
        yield from _weights_changed(findings["weights"], name)


def _changes(findings: Findings) -> Iterator[Statement]:
    weights = findings["weights"]
    yield from _rounded(weights, findings.trained, findings.base)
    yield from _many_changed(weights, [n for n in findings.trained if n not in weights.rounded])


def _not_trained(weights: Result, names: Sequence[str], base: str) -> Statement:
    return _equal(weights, names, f"identical to {base}'s: not trained or not saved")


def _rounded(weights: Result, names: Sequence[str], base: str) -> Iterator[Statement]:
    """State, by dtype, which of `names` are copies of the base in a coarser dtype."""
    rounded = weights.rounded
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
    if name in weights.rounded or not (tower and share_changed and equal):
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


def _many_changed(weights: Result, names: Sequence[str]) -> Iterator[Statement]:
    wanted = {"site": "tower", "measure": "matrix_change", "role": "value"}
    if rows := [row for name in names for row in weights.select(checkpoint=name, **wanted)]:
        yield ranged(weights, rows, "median relative change of the weight matrices that changed (Frobenius)", share)


RULES = (Rule(10, each=_identity, many=_identities), Rule(30, each=_change, many=_changes))
