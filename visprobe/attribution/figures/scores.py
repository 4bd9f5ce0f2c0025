"""Figure of the focus and localisation of each checkpoint's maps, beside baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.legend import legend_below
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.style import (
    INK,
    MUTED,
    TWO_COLUMNS,
    CheckpointStyle,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
    stacked,
)
from visprobe.figures.ticks import round_below
from visprobe.results.result import Result, Row

# In order of drawing: measures of the answer's region first, measures of a map's shape last.
_MEASURES = {
    "mass_inside": "Mass in the region",
    "selectivity": "Mass that follows the question",
    "specificity": "Mass that follows the picture",
    "pointing": "Peak in the region",
    "rank_correlation": "Rank correlation with base",
    "entropy": "Entropy",
    "gini": "Gini coefficient",
    "border_mass": "Mass on the border",
}
_BASELINES: dict[str, Literal["-", "--", ":"]] = {"uniform": "-", "centre": ":", "randomised": "--"}
_ACROSS = 3
_LINE, _BETWEEN, _FRAME, _LEGEND = 0.095, 0.13, 0.48, 0.3  # inches of a checkpoint, between groups, of titles and axes
_LEAST = 0.27  # inches of a group, enough for two lines of text
_PAGE = 9.0
_SIGNIFICANT = 0.05


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw every measure by method and site, with intervals and baselines; below, the paired differences to the base.

    A difference is filled where Holm's p is below 0.05, hollow where it is not.

    Args:
        result: An "attribution" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures; those of
            `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    look = checkpoint_styles(list(dict.fromkeys([*checkpoints, *checkpoints_of(result)])))
    measures, sites = _measures(result), _sites(result)
    names = checkpoints_of(result)
    with paper_style():
        panel = _FRAME + len(sites) * _group(len(names))
        wide = width or TWO_COLUMNS
        figure, panels = _panels(len(measures), 1 + (len(names) > 1), panel, wide)
        for axes in panels.flat:
            axes.set_visible(False)
        for measure, pair in zip(measures, _pairs(panels, len(names) > 1, stacked(wide)), strict=False):
            _draw_values(pair[0], result, measure, sites, names, look)
            _title(pair[0], measure, stacked(wide))
            if len(names) > 1:
                _draw_differences(pair[1], result, measure, sites, names, look)
        for axes in panels[:, 0]:
            _label_sites(axes, sites, len(names))
        legend_below(figure, _legend(result, names, look))
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    every, shown = result.sites, _sites(result)
    rows = [row for row in result.rows if row.role != "baseline" and row.site in shown]
    limit = f" The first {len(shown)} of {len(every)} methods and sites are shown." if len(shown) < len(every) else ""
    return (
        "Attribution maps, by method and site: mean over images of each measure of a map's positive part (above), and "
        "paired difference to the base (below). Filled: Holm's p below 0.05, over all measures, methods and sites of a "
        "checkpoint; hollow: not. A map must be read against its baselines: dashed, a tower with weights redrawn at "
        "random; dotted, a map of the frame's centre alone; grey line, a map without a preference. The region is where "
        f"the answer lies.{limit} {rests_on(rows, 'images')}"
    )


def _panels(measures: int, parts: int, height: float, width: float) -> tuple[Figure, NDArray[Any]]:
    """Make a figure and its axes: three measures in a row, differences below; on a narrow figure a line per measure."""
    across = parts if stacked(width) else max(1, min(measures, _ACROSS))
    down = max(1, measures) if stacked(width) else parts * max(1, -(-measures // _ACROSS))
    figure = Figure((width, height * down), layout="constrained")
    return figure, figure.subplots(down, across, squeeze=False, sharey=True)


def _pairs(panels: NDArray[Any], paired: bool, stack: bool) -> Iterator[Sequence[Axes]]:
    """Yield the axes of each measure: of its values and of their differences."""
    if stack or not paired:
        yield from panels if stack else panels.reshape(-1, 1)
        return
    for above, below in zip(panels[::2], panels[1::2], strict=True):
        yield from zip(above, below, strict=True)


def _title(axes: Axes, measure: str, stack: bool) -> None:
    """Write the measure above its panel; on a narrow figure from the left, where there is more room."""
    if not stack:
        axes.set_title(_MEASURES[measure])
        return
    title = axes.annotate(_MEASURES[measure], (0.015, 1), (0, 4), xycoords=("figure fraction", "axes fraction"),
                          textcoords="offset points", weight="bold", size=8)  # fmt: skip
    title.set_in_layout(False)
    axes.set_title(" ")  # keeps its place


def _measures(result: Result) -> list[str]:
    found = dict.fromkeys(row.measure for row in result.rows if row.role == "value")
    return [measure for measure in _MEASURES if measure in found]


def _sites(result: Result) -> list[str]:
    """Return as many of the methods and sites as a page has lines for."""
    every = result.sites or list(dict.fromkeys(row.site for row in result.rows))
    count = len(checkpoints_of(result))
    down = -(-len(_measures(result)) // _ACROSS) * (1 + (count > 1))
    room = (_PAGE - _LEGEND) / max(1, down) - _FRAME
    return list(every)[: max(1, int(room / _group(count)))]


def _group(checkpoints: int) -> float:
    """Return the height of one method and site, in inches."""
    return max(_LEAST, _BETWEEN + _LINE * checkpoints)


def _place(site: int, checkpoint: float, count: int) -> float:
    """Return the position of a checkpoint's line, in inches from the top."""
    return (site + 0.5) * _group(count) + _LINE * (checkpoint - (count - 1) / 2)


def _draw_values(
    axes: Axes,
    result: Result,
    measure: str,
    sites: Sequence[str],
    names: Sequence[str],
    look: Mapping[str, CheckpointStyle],
) -> None:
    rows = [row for row in result.rows if row.measure == measure and row.site in sites]
    for row in rows:
        site = sites.index(row.site)
        if row.role == "value":
            y = _place(site, names.index(row.checkpoint), len(names))
            _draw_interval(axes, row, y, look[row.checkpoint], True)
        elif row.role == "baseline":
            ends = _place(site, -0.6, len(names)), _place(site, len(names) - 0.4, len(names))
            style = _BASELINES.get(row.checkpoint, "-.")
            axes.plot([row.estimate.value] * 2, ends, color=MUTED, linestyle=style, linewidth=0.9, zorder=1)
            add_tooltips(axes.lines[-1], of_rows([row]))
    _frame(axes, len(sites), len(names))
    axes.set_xlabel(result.settings.get("units", {}).get(measure, rows[0].estimate.unit).capitalize())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))


def _draw_differences(
    axes: Axes,
    result: Result,
    measure: str,
    sites: Sequence[str],
    names: Sequence[str],
    look: Mapping[str, CheckpointStyle],
) -> None:
    base = result.base
    rows = [row for row in result.select(measure=measure, role="difference", reference=base) if row.site in sites]
    rows = [row for row in rows if row.checkpoint in names]
    if not rows:
        return
    p_of = {(t["checkpoint"], t["reference"], t["site"], t["measure"]): t["p_holm"]
            for t in result.tests}  # fmt: skip
    for row in rows:
        y = _place(sites.index(row.site), names.index(row.checkpoint), len(names))
        p = p_of.get((row.checkpoint, base, row.site, measure), 1.0)
        _draw_interval(axes, row, y, look[row.checkpoint], p < _SIGNIFICANT)
    axes.axvline(0, color=INK, linewidth=0.7, zorder=1)
    reach = max(abs(end) for end in axes.get_xlim())
    axes.set_xlim(-reach, reach)
    _frame(axes, len(sites), len(names))
    axes.xaxis.set_major_locator(FixedLocator([-round_below(reach), 0.0, round_below(reach)]))
    axes.set_xlabel("Difference to the base")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0"))


def _draw_interval(axes: Axes, row: Row, y: float, look: CheckpointStyle, filled: bool) -> None:
    estimate = row.estimate
    axes.plot([estimate.low, estimate.high], [y, y], color=look.colour, linewidth=1.1, solid_capstyle="butt")
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4} if filled else {"markerfacecolor": "white"}
    axes.plot([estimate.value], [y], color=look.colour, marker=look.marker, markersize=3.6, **edge)
    add_tooltips(axes.lines[-1], of_rows([row]))


def _frame(axes: Axes, sites: int, checkpoints: int) -> None:
    axes.set_visible(True)
    axes.set_ylim(sites * _group(checkpoints), -0.3 * _LINE)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    for site in range(1, sites):
        axes.axhline(site * _group(checkpoints), color=MUTED, linewidth=0.3)


def _label_sites(axes: Axes, sites: Sequence[str], checkpoints: int) -> None:
    labels = ["\n".join(shorten(part, 22) for part in site.split("@", 1)) for site in sites]
    axes.set_yticks([(i + 0.5) * _group(checkpoints) for i in range(len(sites))], labels=labels)
    axes.tick_params(axis="y", labelleft=True)


def _legend(result: Result, names: Sequence[str], look: Mapping[str, CheckpointStyle]) -> list[Line2D]:
    lines = [
        Line2D([], [], color=look[name].colour, marker=look[name].marker, markersize=3.6, label=name) for name in names
    ]
    for name in dict.fromkeys(row.checkpoint for row in result.rows if row.role == "baseline"):
        lines.append(Line2D([], [], color=MUTED, linestyle=_BASELINES.get(name, "-."), linewidth=0.9, label=name))
    return lines
