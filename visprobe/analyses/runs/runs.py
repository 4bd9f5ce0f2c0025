"""Arms of several runs: is the difference between arms larger than that between runs of one recipe?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from visprobe.analyses.accuracy.answers import ANSWERS
from visprobe.analyses.accuracy.sentences import SEES
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.runs import mean_over_runs, sign_flip_p
from visprobe.metrics.intervals.student import Student
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Role, Row
from visprobe.results.statement import Statement, evidence, sign_of

QUESTION = "Over runs with different seeds, how do the arms differ from the base and from each other?"
MEASURES = ("top1", "cka", "accuracy/all")
UNITS = {"top1": "fraction", "accuracy/all": "fraction", "cka": "CKA"}
PRESENTATIONS = {
    "runs": Presentation(
        figures=(
            FigureSpec("arms_over_runs", "visprobe.analyses.runs.runs_figure", baseline="Baseline: 0, no difference."),
        ),
        place=10,
        sums_up=True,
    )
}


def across_runs(results: Sequence[Result], arms: Mapping[str, Sequence[str]], base: str) -> Result:
    """Compute the mean difference of each arm to the base and between arms, with intervals over runs.

    Args:
        results: Results with a value row per run: "imagenet", "drift", "answers".
        arms: Names of the checkpoints of each arm's runs, in the same order of seeds for every arm.
        base: Name of the base.

    Returns:
        Rows of role "difference": per arm and measure the mean of (run - base) over runs (for CKA a "value", the
        mean itself, as it already compares with the base); per pair of arms the mean of the differences between
        runs of the same seed. The settings hold the single runs, and the exact sign-flip p of each pair of arms.
    """
    rows: list[Row] = []
    tests: list[dict[str, Any]] = []
    single: list[dict[str, Any]] = []

    def add(arm: str, reference: str, runs: Sequence[float]) -> None:
        rows.append(_row(arm, reference, site, measure, mean_over_runs(runs), reference == base))
        where = {"checkpoint": arm, "reference": reference, "site": site, "measure": measure}
        single.append({**where, "runs": list(runs)})
        if reference != base:
            tests.append({**where, "p": sign_flip_p(runs)})

    for site, measure in _measured(results):
        values = {arm: [_value(results, run, site, measure, base) for run in runs] for arm, runs in arms.items()}
        for arm, found in values.items():
            add(arm, base, found)
        for one, two in combinations(arms, 2):
            add(two, one, [b - a for a, b in zip(values[one], values[two], strict=True)])
    runs = min(len(names) for names in arms.values())
    settings = {
        "base": base,
        "arms": {arm: list(names) for arm, names in arms.items()},
        "sign_flip": tests,
        "values": single,
    }
    return Result("runs", QUESTION, tuple(rows), settings, tuple(_warnings(runs)))


def _warnings(runs: int) -> list[str]:
    if runs >= 6:
        return []
    return [f"{runs} runs per arm: no exact test over runs can give p below {2 / 2**runs:.2g}, and intervals are wide."]


def _measured(results: Sequence[Result]) -> list[tuple[str, str]]:
    rows = [row for result in results for row in result.rows if row.role == "value" and row.measure in MEASURES]
    read = {result.consumed for result in results} | {"projected", "language_model"}
    return list(dict.fromkeys((row.site, row.measure) for row in rows if row.site in read))


def _value(results: Sequence[Result], run: str, site: str, measure: str, base: str) -> float:
    found = {
        row.checkpoint: row.estimate.value
        for result in results
        for row in result.rows
        if row.role == "value" and row.site == site and row.measure == measure
    }
    if measure == "cka":
        return found.get(run, 1.0)  # a tower equal to the base has no CKA row
    return found[run] - found[base]


def _row(checkpoint: str, reference: str, site: str, measure: str, mean: Student, is_base: bool) -> Row:
    estimate = mean.estimate(Scale(UNITS[measure], -1, 1))  # neither share, CKA nor difference lies beyond
    role: Role = "value" if measure == "cka" and is_base else "difference"
    named = replace(estimate, method=f"Student t 95 % over {mean.n} runs")
    return Row(checkpoint, site, measure, named, reference, role)


VERBS: Mapping[str, Mapping[int, Sequence[str]]] = {
    "top1": SEES,
    "accuracy/all": ANSWERS,
    "cka": {
        1: ("is closer to the base than",),
        -1: ("is further from the base than",),
        0: ("is not measurably further or closer than",),
    },
}


def runs_verdict(result: Result, base: str) -> list[Statement]:
    """State how each arm differs from the base and from each other arm, no more than the intervals allow.

    Args:
        result: A result of `across_runs`.
        base: Name of the base.
    """
    statements = _in_short(result, base)
    for row in result.rows:
        if row.measure == "cka" and row.reference == base:
            text = f"{row.checkpoint}: CKA to {base} at {row.site} is {_interval(row.estimate)}"
        else:
            verb = VERBS[row.measure][sign_of(row.estimate)][0]
            text = f"{row.checkpoint} {verb} {row.reference} at {row.site}: {_interval(row.estimate)}"
        statements.append(Statement(f"Over {row.estimate.n} runs, {text}.", evidence(result, [row])))
    return statements


def _in_short(result: Result, base: str) -> list[Statement]:
    """State which arms differ in top-1 at the consumed site, from the base and from each other."""
    rows = [row for row in result.rows if row.measure == "top1" and row.site not in ("projected", "language_model")]
    if not rows:
        return []
    apart = [row for row in rows if row.estimate.low > 0 or row.estimate.high < 0]
    found = [f"{r.checkpoint} sees {'better' if r.estimate.low > 0 else 'worse'} than {r.reference}" for r in apart]
    said = ", ".join(found) if found else f"no arm sees measurably better or worse than {base} or than another arm"
    text = (
        f"In short: over {rows[0].estimate.n} runs per arm, {said}, at what the language model reads ({rows[0].site})."
    )
    return [Statement(text, evidence(result, rows))]


def _interval(estimate: Estimate) -> str:
    if estimate.unit == "fraction":
        value, low, high = (100 * number for number in (estimate.value, estimate.low, estimate.high))
        return f"{_signed(value)} points [{_signed(low)}, {_signed(high)}]"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def _signed(value: float) -> str:
    return "0.0" if round(value, 1) == 0 else f"{value:+.1f}".replace("-", "−")
