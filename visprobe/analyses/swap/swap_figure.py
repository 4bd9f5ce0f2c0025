"""Figure of how far each part of the encoder takes one checkpoint to the other."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from visprobe.analyses.swap.sentences import carrying
from visprobe.analyses.swap.swap import TESTED, WHOLE, Direction, column
from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.labels import shorten
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.panels import panels_of
from visprobe.figures.site_axis import label_sites, place_sites
from visprobe.figures.style import INK, MUTED, TWO_COLUMNS, CheckpointStyle, paper_style
from visprobe.results.result import Result, Row

_LOOKS: dict[Direction, CheckpointStyle] = {
    "cumulative": CheckpointStyle("#009E73", "D"),
    "sufficient": CheckpointStyle("#0072B2", "s"),
    "necessary": CheckpointStyle("#D55E00", "^"),
}
_NAMES: dict[Direction, str] = {
    "cumulative": "all up to here exchanged",
    "sufficient": "this part put in",
    "necessary": "all but this part",
}
_ASIDE: dict[Direction, float] = {"cumulative": 0.0, "sufficient": -0.13, "necessary": 0.13}
_HEADINGS = {"cka": "CKA to {other}", "top1": "Prototype top-1 accuracy"}


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw CKA to the other checkpoint above top-1 accuracy, part by part; one column per site.

    A marker is filled where the part carries the difference after correction for their number, hollow where not.

    Args:
        result: A "swap" result.
        checkpoints: Not used: lines are ways of exchanging parts, not checkpoints.
        width: Inches; two columns of a paper if None.
    """
    measures = list(dict.fromkeys(row.measure for row in result.rows))
    kinds = list(dict.fromkeys(measure.split("_")[0] for measure in measures))
    sites = list(dict.fromkeys(measure.split("_", 1)[1] for measure in measures))
    positions = place_sites(result.settings["parts"])
    with paper_style():
        figure = Figure((width or TWO_COLUMNS, 0.6 + 1.75 * len(kinds)), layout="constrained")
        grid = panels_of(figure, len(kinds), len(sites))
        panels = grid.axes
        for line, kind in enumerate(kinds):
            for place, site in enumerate(sites):
                ends = _draw_panel(panels[line, place], result, f"{kind}_{site}", positions)
            grid.label_row(line, _HEADINGS[kind].format(other=shorten(result.settings["other"], 16)))
            if kind == "top1":
                panels[line, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            panels[line, 0].yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            label_ends(panels[line, -1], ends)
        for place, site in enumerate(sites):
            panels[0, place].set_title(_title(site, str(result.consumed)))
            label_sites(panels[-1, place], positions)
            panels[-1, place].set_xlabel("Part, from the input")
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    base, other = result.base, result.settings["other"]
    steps = result.select(role="difference")
    return (
        f"Parts exchanged between {base} and {other}: likeness to {other} (above) and prototype accuracy (below). "
        f"Blue: {base} with one part of {other}; orange: {other} with one part of {base}; green: {base} with this part "
        f"and all before it of {other}. Lines: {base} and {other} themselves. Bars: intervals of the paired "
        "difference to the line that the part starts from. Filled: the part carries the difference (adjusted by Holm "
        f"over the parts); hollow: not measurably. {rests_on(steps, 'images')}"
    )


def _title(site: str, consumed: str) -> str:
    return f"{consumed} (read by the LLM)" if site == "consumed" else "after the projector"


def _draw_panel(axes: Axes, result: Result, measure: str, positions: dict[str, float]) -> list[End]:
    lines, ends = {}, []
    for key, colour in (("base", INK), ("other", MUTED)):
        name = result.settings[key]
        rows = result.select(checkpoint=name, site=WHOLE, measure=measure, role="value")
        lines[name] = rows[0].estimate.value if rows else 1.0  # the other's CKA to itself
        axes.axhline(lines[name], color=colour, linewidth=0.9)
        ends.append(End(name, lines[name], colour))
    for direction, look in _LOOKS.items():
        name = column(direction, result.base, result.settings["other"])
        steps = result.select(checkpoint=name, measure=measure, role="difference")
        full = carrying(result, measure, direction) if direction in TESTED else result.settings["parts"]
        x = [positions[row.site] + _ASIDE[direction] for row in steps]
        start = lines[steps[0].reference or ""]
        _draw_points(axes, x, start, steps, look, full)
        if direction == "cumulative":
            heights = [start + row.estimate.value for row in steps]
            axes.plot(x, heights, color=look.colour, linewidth=0.9, alpha=0.7, zorder=2)
        else:
            low, high = ([start + bound for bound in bounds] for bounds in zip(*map(_interval, steps), strict=True))
            axes.vlines(x, low, high, color=look.colour, linewidth=0.7, zorder=2)
        ends.append(End(_NAMES[direction], start + steps[-1].estimate.value, *look))
    axes.grid(axis="y")
    return ends


def _interval(row: Row) -> tuple[float, float]:
    return row.estimate.low, row.estimate.high


def _draw_points(
    axes: Axes, x: Sequence[float], start: float, steps: Sequence[Row], look: CheckpointStyle, full: Sequence[str]
) -> None:
    for place, row in zip(x, steps, strict=True):
        face = look.colour if row.site in full else "white"
        height = start + row.estimate.value
        axes.plot(place, height, color=look.colour, marker=look.marker, markerfacecolor=face, linestyle="", zorder=3)
        add_tooltips(axes.lines[-1], of_rows([row]))
