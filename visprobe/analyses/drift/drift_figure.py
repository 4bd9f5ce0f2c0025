"""Figure of each checkpoint's distance from the base, block by block."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.analyses.drift.identical_figure import note_identical
from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import label_ends
from visprobe.figures.site_axis import label_sites, place_sites
from visprobe.figures.site_lines import draw_baselines, draw_lines, lines_of
from visprobe.figures.style import TWO_COLUMNS, baseline_lines, checkpoint_styles, checkpoints_of, paper_style
from visprobe.figures.ticks import log_y_axis
from visprobe.results.result import Result

_ROUNDING = 1e-11  # equal features give a CKA of 1 up to the last bits of float64 sums


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw 1 − CKA to the base at every site on a logarithmic axis, with intervals and baselines.

    CKA after fine-tuning is mostly above 0.9, where a linear axis shows nothing; its distance from 1 spans decades.

    Args:
        result: A "drift" result: rows of measure "cka" with roles "value" and "baseline".
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    rows = [row for row in result.select(measure="cka") if row.role != "difference"]
    positions = place_sites(result.sites or [row.site for row in rows])
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    with paper_style():
        figure = Figure((width or TWO_COLUMNS, 2.9), layout="constrained")
        axes = figure.subplots()
        zero = log_y_axis(axes, [_distance(row.estimate.value) for row in rows])
        label_sites(axes, positions, result)
        axes.grid(axis="y")

        def height(cka: float) -> float:
            return max(_distance(cka), zero)

        baselines = draw_baselines(axes, lines_of(rows, "baseline"), positions, height, baseline_lines(rows))
        label_ends(axes, [*baselines, *draw_lines(axes, lines_of(rows, "value"), positions, look, height, 0.18)])
        note_identical(figure, result.identical)
        axes.set_ylabel("Distance to the base, 1 − CKA")
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval method."""
    rows = [row for row in result.select(measure="cka") if row.role != "difference"]
    return (
        "Representation drift: distance of each checkpoint's features from the base (1 − debiased linear CKA, "
        "logarithmic axis, higher is farther) at every site from the input to the projector. Grey: what the "
        f"drift must be read against. {rests_on(rows, 'images')}"
    )


def _distance(cka: float) -> float:
    return 0.0 if abs(1 - cka) < _ROUNDING else 1 - cka
