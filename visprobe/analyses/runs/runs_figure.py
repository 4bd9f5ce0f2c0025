"""Figure of several runs per arm: every run as a dot beside the mean and its interval."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from visprobe.figures.labels import shorten
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.style import INK, MUTED, SMALL, TWO_COLUMNS, CheckpointStyle, checkpoint_styles, paper_style
from visprobe.figures.text import fitted
from visprobe.results.result import Result, Row

_ROW_INCHES = 0.19
_FRAME_INCHES = 0.55
_NAMES = 0.42  # share of the figure's width for the names of two checkpoints
_TITLES = {"top1": "Prototype top-1", "accuracy/all": "Questions answered right"}


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw mean differences with intervals over runs, in percentage points, and the single runs.

    Args:
        result: A "runs" result.
        checkpoints: All checkpoints of the report, base first, so that each arm keeps its colour over figures.
        width: Inches; two columns of a paper if None.
    """
    base, arms = result.base, list(result.settings["arms"])
    look = checkpoint_styles([base, *arms] if not checkpoints else [*dict.fromkeys([*checkpoints, *arms])])
    parts = _parts(result)
    lines = sum(len(rows) + 1.6 for rows in parts.values())
    with paper_style():
        figure = Figure((width or TWO_COLUMNS * 0.8, _FRAME_INCHES + _ROW_INCHES * lines), layout="constrained")
        axes = figure.subplots()
        y, ticks = 0.0, {}
        points = _NAMES * 72 * figure.get_figwidth() / 2
        for title, rows in parts.items():
            heading = axes.annotate(
                title, (0.015, y), xycoords=("figure fraction", "data"), va="center", weight="bold", color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, zorder=5,
            )  # fmt: skip
            heading.set_in_layout(False)
            for place, row in enumerate(rows, start=1):
                ticks[y + place] = " − ".join(
                    fitted(name, points, SMALL) for name in (row.checkpoint, row.reference or "")
                )
                _draw_row(axes, row, _runs_of(result, row), y + place, look[row.checkpoint])
            y += len(rows) + 1.6
        axes.set_yticks(list(ticks), labels=list(ticks.values()))
        axes.set_ylim(y - 0.9, -0.8)
        _finish(axes)
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval method."""
    n = min(len(names) for names in result.settings["arms"].values())
    return (
        "Arms over runs: mean difference of each arm to the base, and between arms of the same seed. Dots: single "
        f"runs. n = {n} runs per arm; intervals: Student t 95 % over runs."
    )


def _parts(result: Result) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for row in result.rows:
        if row.measure in _TITLES:
            where = "" if row.measure == "accuracy/all" else f" at {shorten(row.site)}"
            parts.setdefault(_TITLES[row.measure] + where, []).append(row)
    return parts


def _runs_of(result: Result, row: Row) -> list[float]:
    wanted = (row.checkpoint, row.reference, row.site, row.measure)
    for entry in result.settings["values"]:
        if (entry["checkpoint"], entry["reference"], entry["site"], entry["measure"]) == wanted:
            return list(entry["runs"])
    return []


def _draw_row(axes: Axes, row: Row, runs: Sequence[float], y: float, look: CheckpointStyle) -> None:
    estimate = row.estimate
    axes.plot([estimate.low, estimate.high], [y, y], color=look.colour, linewidth=1.4, solid_capstyle="butt")
    axes.plot(runs, [y] * len(runs), linestyle="none", marker="o", markersize=3, color=MUTED, alpha=0.7, zorder=3)
    axes.plot(
        [estimate.value], [y], marker=look.marker, markersize=4.2, color=look.colour, markeredgecolor="white", zorder=4
    )
    add_tooltips(axes.lines[-1], of_rows([row]))


def _finish(axes: Axes) -> None:
    axes.axvline(0, color=INK, linewidth=0.7)
    reach = max(abs(end) for end in axes.get_xlim())
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:+.3g}".replace("-", "−") if x else "0"))
    axes.xaxis.set_major_locator(MaxNLocator("auto", symmetric=True, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("Difference, percentage points")
