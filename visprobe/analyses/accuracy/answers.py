"""How many questions the whole model answers right: how its results, made elsewhere, are shown."""

from __future__ import annotations

from visprobe.results.presentation import FigureSpec, Presentation

PRESENTATIONS = {
    "answers": Presentation(
        titles={"accuracy": "Questions answered correctly"},
        heading="Questions",
        figures=(FigureSpec("answers", "visprobe.analyses.accuracy.answers_figure"),),
        place=290,
        drawn_settings=("against_floors",),
    )
}
