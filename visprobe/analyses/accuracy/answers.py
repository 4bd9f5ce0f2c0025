"""Presentation and sentences of the results "answers": questions that the whole model answers right."""

from __future__ import annotations

from collections.abc import Iterator

from visprobe.analyses.accuracy.sentences import against_base
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.rules import Findings, Rule
from visprobe.results.statement import Statement, above_baseline, compared, evidence, percent_interval, sign_of

ANSWERS = {
    1: ("answers better than", "answer better than"),
    -1: ("answers worse than", "answer worse than"),
    0: ("does not answer measurably differently from", "do not answer measurably differently from"),
}


def _answered(findings: Findings) -> Iterator[Statement]:
    answers = findings["answers"]
    blind = answers.select(measure="accuracy/all", baseline="blind")
    rows = answers.select(measure="accuracy/all", role="value")
    for row in rows:
        text = f"{row.checkpoint} answers {percent_interval(row.estimate)} of {row.estimate.n} questions right"
        against = above_baseline(answers, row, blind[0].checkpoint) if blind else None
        if against:
            relation = "above" if against[0] else "not clearly above"
            text += f", {relation} the {percent_interval(blind[0].estimate)} of guessing without the image"
        yield Statement(f"{text}.", evidence(answers, [row, *blind]))
    for row in answers.select(measure="accuracy/all", role="difference"):
        own, other = ([one for one in rows if one.checkpoint == name] for name in (row.checkpoint, row.reference))
        if own and other:
            text = f"{row.checkpoint} {ANSWERS[sign_of(row.estimate)][0]} {row.reference}: {compared(row, own, other)}."
            yield Statement(text, evidence(answers, [own[0], other[0], row]))


def _in_short(findings: Findings) -> Statement:
    answers, base = findings["answers"], findings.base
    wanted = {"measure": "accuracy/all", "role": "difference", "reference": base}
    rows = [row for name in findings.descendants for row in answers.select(**wanted, checkpoint=name)]
    return Statement(", ".join(against_base(rows, base, ANSWERS)), evidence(answers, rows))


PRESENTATIONS = {
    "answers": Presentation(
        titles={"accuracy": "Questions answered correctly"},
        heading="Questions",
        figures=(FigureSpec("answers", "visprobe.analyses.accuracy.answers_figure"),),
        place=290,
        drawn_settings=("against_baselines",),
        rules=(Rule(80, whole=_answered, clause=_in_short),),
    )
}
