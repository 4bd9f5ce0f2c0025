"""Figure of the questions that the whole model answers, against the same model without the image."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.figures.captions import rests_on
from visprobe.figures.forest import draw_forest, sections
from visprobe.figures.style import checkpoint_styles, checkpoints_of
from visprobe.results.result import Result, Row

_PREFIX = "accuracy/"


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw accuracy per question group with intervals and the blind baseline, and paired differences, if any.

    Args:
        result: An "answers" result: rows of measures "accuracy/<group>".
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    names = list(dict.fromkeys([*checkpoints, *checkpoints_of(result)]))
    rows = _rows(result)
    groups = [row.measure.removeprefix(_PREFIX) for row in rows]
    order = sorted(dict.fromkeys(groups), key=lambda group: group != "all")
    parts = sections(rows, groups, order, names[0])
    return draw_forest(parts, checkpoint_styles(names), "Questions answered correctly", width=width)


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    return (
        "Answers: share of questions that the whole model answers correctly, over all questions and per group. "
        f"Dashed: the same questions without the image. {rests_on(_rows(result), 'questions')}"
    )


def _rows(result: Result) -> list[Row]:
    return [row for row in result.rows if row.measure.startswith(_PREFIX)]
