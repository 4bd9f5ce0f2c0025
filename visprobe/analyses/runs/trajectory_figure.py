"""Figure of when during training the encoder moved, and of its accuracy at each moment."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from visprobe.analyses.drift.noise_floor import has_moved
from visprobe.analyses.runs.trajectory import rounding
from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.panels import panels_of
from visprobe.figures.style import INK, MUTED, TWO_COLUMNS, CheckpointStyle, checkpoint_styles, paper_style
from visprobe.figures.ticks import log_y_axis
from visprobe.results.read_site import read_label
from visprobe.results.result import Result, Row

_ROUNDING = 1e-11  # equal features give a CKA of 1 up to the last bits of float64 sums
_PROJECTED = "projected"

_Line = list[tuple[int, Row]]  # a run's rows of one measure at one site, by step


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw 1 − CKA to the base above top-1 accuracy, by optimizer step; one column per site, one line per run.

    A marker is filled where the checkpoint measurably differs from the base, hollow where it does not.

    Args:
        result: A "trajectory" result.
        checkpoints: Not used: colours go by run, and a run has many checkpoints.
        width: Inches; two columns of a paper if None.
    """
    base, sites = result.base, _sites(result)
    look = checkpoint_styles([base, *result.settings["runs"]])
    measures = ["cka", "top1"] if result.select(measure="top1") else ["cka"]
    with paper_style():
        figure = Figure((width or TWO_COLUMNS, 0.5 + 1.75 * len(measures)), layout="constrained")
        grid = panels_of(figure, len(measures), len(sites))
        panels = grid.axes
        zero = log_y_axis(panels[0, 0], [_distance(row.estimate.value) for row in result.select(measure="cka")])
        for column, site in enumerate(sites):
            ends = _draw_distance(panels[0, column], result, site, look, zero)
            if len(measures) > 1:
                accuracy_ends = _draw_accuracy(panels[1, column], result, site, look)
            panels[0, column].set_title(_title(site, result))
            panels[-1, column].set_xlabel("Optimizer step")
        label_ends(panels[0, -1], ends)
        grid.label_row(0, "Distance to the base, 1 − CKA")
        if len(measures) > 1:
            label_ends(panels[1, -1], accuracy_ends)
            grid.label_row(1, "Prototype top-1 accuracy")
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.measure in ("cka", "top1")]
    return (
        "Training trajectory: distance of the features from the base (above, 1 − debiased linear CKA, logarithmic "
        "axis) and prototype accuracy (below) at each moment of training. Filled markers: measurably different from "
        "the base (further than six times the rounding of the base; paired difference excludes 0); hollow: not. "
        f"Dashed: the base in another number format; black: the base. {rests_on(rows, 'images')}"
    )


def _sites(result: Result) -> list[str]:
    """Return the site that the language model reads, then the projector's output."""
    found = {row.site for row in result.select(measure="cka")}
    return [site for site in (result.consumed, _PROJECTED) if site in found]


def _title(site: str, result: Result) -> str:
    return read_label(result) if site == result.consumed else "after the projector"


def _distance(cka: float) -> float:
    return 0.0 if abs(1 - cka) < _ROUNDING else 1 - cka


def _line(result: Result, run: str, site: str, measure: str, role: str = "value") -> _Line:
    steps = {moment["checkpoint"]: moment["step"] for moment in result.settings["runs"][run]}
    rows = result.select(site=site, measure=measure, role=role)
    return [(steps[row.checkpoint], row) for row in rows if row.checkpoint in steps]


def _draw_distance(axes: Axes, result: Result, site: str, look: dict[str, CheckpointStyle], zero: float) -> list[End]:
    baseline, _ = rounding(result, site)
    noise_height = max(_distance(baseline.estimate.value), zero)
    axes.axhline(noise_height, color=MUTED, linestyle="--", linewidth=0.9)
    axes.grid(axis="y")
    ends = [End(baseline.checkpoint, noise_height, MUTED, line="--")]
    for run in result.settings["runs"]:
        line = _line(result, run, site, "cka")
        heights = [
            [max(_distance(bound), zero) for bound in (row.estimate.value, row.estimate.high, row.estimate.low)]
            for _, row in line
        ]
        filled = [has_moved(result, row) for _, row in line]
        _draw_line(axes, line, heights, filled, look[run])
        ends.append(End(run, heights[-1][0], *look[run]))
    return ends


def _draw_accuracy(axes: Axes, result: Result, site: str, look: dict[str, CheckpointStyle]) -> list[End]:
    name = result.base
    [base] = result.select(checkpoint=name, site=site, measure="top1", role="value")
    axes.axhline(base.estimate.value, color=INK, linewidth=0.9)
    axes.grid(axis="y")
    ends = [End(name, base.estimate.value, INK)]
    for run in result.settings["runs"]:
        line = [(0, base), *_line(result, run, site, "top1")]
        differs = [row.estimate.low > 0 or row.estimate.high < 0
                   for _, row in _line(result, run, site, "top1", "difference")]  # fmt: skip
        heights = [[row.estimate.value, row.estimate.low, row.estimate.high] for _, row in line]
        _draw_line(axes, line, heights, differs, look[run])
        ends.append(End(run, heights[-1][0], *look[run]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return ends


def _draw_line(
    axes: Axes, line: _Line, heights: Sequence[Sequence[float]], filled: Sequence[bool], look: CheckpointStyle
) -> None:
    """Draw a line of (value, one end, other end) with its band; `filled` marks the last points."""
    values, near, far = zip(*heights, strict=True)
    x = [step for step, _ in line]
    axes.fill_between(x, near, far, color=look.colour, alpha=0.15, linewidth=0, zorder=2)
    axes.plot(x, values, color=look.colour, zorder=3)
    marked = zip(line[-len(filled) :], values[-len(filled) :], filled, strict=True)
    for (step, row), value, full in marked:
        face = look.colour if full else "white"
        axes.plot(step, value, color=look.colour, marker=look.marker, markerfacecolor=face, zorder=4)
        add_tooltips(axes.lines[-1], of_rows([row]))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlim(left=-0.02 * max(x))
