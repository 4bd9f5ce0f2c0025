"""Figure of accuracy at every site, with paired differences to the base at the consumed site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from visprobe.figures.end_labels import label_ends
from visprobe.figures.labels import on_two_lines, site_label
from visprobe.figures.marks import add_tooltips, at_sites
from visprobe.figures.site_axis import label_sites, place_sites
from visprobe.figures.site_lines import Lines, draw_baselines, draw_lines, lines_of
from visprobe.figures.style import (
    INK,
    MUTED,
    SMALL,
    TWO_COLUMNS,
    CheckpointStyle,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
    stacked,
)
from visprobe.results.read_site import read_note
from visprobe.results.result import Result, Row


def draw_by_depth(
    result: Result, measure: str, label: str, checkpoints: Sequence[str] = (), width: float | None = None
) -> Figure:
    """Draw a line per checkpoint with intervals, baselines dashed, chance dotted, and differences to the base.

    Args:
        result: Rows of `measure` at many sites, with roles "value", "baseline" and "difference".
        measure: Measure to draw.
        label: Label of the y axis.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures.
        width: Inches; two columns of a paper if None. On a narrow figure the second panel lies below the first.
    """
    rows = [row for row in result.select(measure=measure) if ":" not in row.site]
    names = [*dict.fromkeys([*checkpoints, *checkpoints_of(result)])]
    matter = [str(result.consumed), "projected"]
    read = [site for site in matter if any(row.site == site for row in rows)]
    differences = lines_of([row for row in rows if row.reference == names[0] and row.site in read], "difference")
    with paper_style():
        figure, panels = _panels(bool(differences), width or TWO_COLUMNS)
        _draw_lines(panels[0], rows, checkpoint_styles(names), result)
        panels[0].set_ylabel(label)
        if differences:
            _draw_differences(
                panels[1], differences, {site: _where(site, result) for site in read}, checkpoint_styles(names)
            )
    return figure


def _panels(paired: bool, width: float) -> tuple[Figure, Sequence[Axes]]:
    if stacked(width):
        figure = Figure((width, 4.2 if paired else 2.4), layout="constrained")
        panels = figure.subplots(1 + paired, 1, squeeze=False, height_ratios=[1.7, 1][: 1 + paired])[:, 0]
    else:
        figure = Figure((width, 2.7), layout="constrained")
        panels = figure.subplots(1, 1 + paired, squeeze=False, width_ratios=[2.2, 1][: 1 + paired])[0]
    return figure, list(panels)


def _draw_lines(axes: Axes, rows: Sequence[Row], look: Mapping[str, CheckpointStyle], result: Result) -> None:
    order = [site for site in result.sites if any(row.site == site for row in rows)]
    positions = place_sites(order or [row.site for row in rows])
    values, baselines = lines_of(rows, "value"), lines_of(rows, "baseline")
    highest = max((e.high for line in (*values.values(), *baselines.values()) for e in line.values()), default=1.0)
    axes.set_ylim(0, min(1.005, 1.06 * highest))
    label_sites(axes, positions, result)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(axis="y")
    ends = draw_baselines(axes, baselines, positions, float, dict.fromkeys(baselines, "--"))
    ends += draw_lines(axes, values, positions, look, float, 0.15)
    chance = result.chance
    if chance is not None:
        axes.axhline(chance, color=MUTED, linestyle=":", linewidth=0.9)
        # Below its line, where the lines of encoders begin just above it; unless there is no room.
        below = "top" if chance > 0.1 * axes.get_ylim()[1] else "bottom"
        axes.annotate("chance", (0.01, chance), xycoords=("axes fraction", "data"), va=below, size=SMALL, color=MUTED)
    label_ends(axes, ends)


def _draw_differences(axes: Axes, lines: Lines, read: Mapping[str, str], look: Mapping[str, CheckpointStyle]) -> None:
    for i, (name, estimates) in enumerate(lines.items()):
        colour, marker = look[name]
        for place, site in enumerate(read):
            if estimate := estimates.get(site):
                x = place + 0.5 * ((i + 0.5) / len(lines) - 0.5)
                axes.vlines(x, estimate.low, estimate.high, color=colour, linewidth=1.3)
                axes.plot([x], [estimate.value], color=colour, marker=marker, markersize=4.2, markeredgecolor="white")
                add_tooltips(
                    axes.lines[-1], at_sites(f"{name}, difference to the base", [site], [estimate], difference=True)
                )
    axes.axhline(0, color=INK, linewidth=0.7)
    axes.set_xlim(-0.5, len(read) - 0.5)
    axes.set_xticks(range(len(read)), labels=list(read.values()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:+.3g}".replace("-", "−") if y else "0"))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.set_ylabel("Difference to the base, points")


def _where(site: str, result: Result) -> str:
    return "projected" if site == "projected" else f"{site_label(site)}\n({on_two_lines(read_note(result))})"
