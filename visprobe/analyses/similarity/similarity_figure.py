"""Figure of the distance from the base by measures that differ in what they overlook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from visprobe.analyses.drift.identical_figure import note_identical
from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.labels import shorten
from visprobe.figures.marks import add_tooltips, at_sites, of_rows
from visprobe.figures.site_axis import label_sites, line_positions, place_sites, runs
from visprobe.figures.style import (
    MUTED,
    TWO_COLUMNS,
    CheckpointStyle,
    LineStyle,
    baseline_lines,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
    stacked,
)
from visprobe.figures.ticks import log_y_axis
from visprobe.results.read_site import read_note
from visprobe.results.result import Estimate, Result, Row

# Ordered from measures that see a rotation of all features to those that see neighbours only.
_MEASURES = {
    "cosine": "1 − cosine",
    "procrustes": "1 − Procrustes",
    "linear_r2": "1 − R² of linear map",
    "rbf_cka": "1 − RBF CKA",
    "mutual_knn": "1 − mutual kNN",
}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LEAST = 1e-9  # end of the axis; equal features give 0 or the rounding of sums


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the relative error at every site above, and below the distance by every measure at the read sites.

    Args:
        result: A "similarity" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    rows = [row for row in result.rows if row.role != "difference"]
    sites = [site for site in result.settings.get("read_sites", []) if _at(rows, site)]
    with paper_style():
        wide = width or TWO_COLUMNS
        down, across = (max(len(sites), 1), 1) if stacked(wide) else (1, max(len(sites), 1))
        figure = Figure((wide, 2.6 + 2.1 * down), layout="constrained")
        grid = figure.add_gridspec(2, 1, height_ratios=(1.15, down))
        _draw_sites(figure.add_subplot(grid[0]), [row for row in rows if row.measure == "relative_error"], result, look)
        panels = grid[1].subgridspec(down, across).subplots(sharey=True, squeeze=False).ravel()
        for panel, site in zip(panels, sites, strict=False):
            _draw_measures(panel, _at(rows, site), look, across)
            read = f" ({read_note(result)})" if site == result.consumed else ""
            panel.set_title(f"{shorten(site)}{read}")
        note_identical(figure, result.identical)
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.measure in ("relative_error", *_MEASURES) and row.role != "difference"]
    return (
        "Similarity to the base. Above: mean length of the change of an image's features over that of the base's "
        "(logarithmic axis), at every site. Below: distance from full similarity (logarithmic axis) where features are "
        "read. Cosine sees a rotation of all features, Procrustes undoes it, a linear map undoes more; RBF CKA and "
        "shared neighbours look at near images. Grey: what the numbers must be read against. "
        f"{rests_on(rows, 'images')}"
    )


def _at(rows: Sequence[Row], site: str) -> list[Row]:
    return [row for row in rows if row.site == site and row.measure in _MEASURES]


def _draw_sites(axes: Axes, rows: Sequence[Row], result: Result, look: Mapping[str, CheckpointStyle]) -> None:
    positions = place_sites(result.sites or [row.site for row in rows])
    zero = log_y_axis(axes, [row.estimate.value for row in rows])
    label_sites(axes, positions, result)
    axes.grid(axis="y")
    lines: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        lines.setdefault(row.checkpoint, {})[row.site] = row.estimate
    grey = baseline_lines(rows)
    ends = [_draw_line(axes, name, at, positions, look.get(name), grey.get(name, "-"), zero, (i, len(lines)))
            for i, (name, at) in enumerate(lines.items())]  # fmt: skip
    label_ends(axes, ends)
    axes.set_ylabel("Relative change of the features")


def _draw_line(
    axes: Axes,
    name: str,
    at: Mapping[str, Estimate],
    positions: Mapping[str, float],
    look: CheckpointStyle | None,
    line: LineStyle,
    zero: float,
    place: tuple[int, int],
) -> End:
    baseline, end = look is None, zero
    colour, marker = look or CheckpointStyle(MUTED, "")
    for run in runs([site for site in positions if site in at]):
        x = line_positions(run, positions, *place)
        y = [max(at[site].value, zero) for site in run]
        end = y[-1]
        if baseline and len(run) == 1:
            x, y = [x[0] - 0.35, x[0] + 0.35], y * 2
        axes.plot(x, y, color=colour, marker=marker, linestyle=line, markeredgecolor="white",
                  markeredgewidth=0.4, linewidth=0.9 if baseline else 1.2)  # fmt: skip
        add_tooltips(axes.lines[-1], at_sites(name, run, [at[site] for site in run]))
        if not baseline:
            axes.vlines(x, [max(at[s].low, zero) for s in run], [at[s].high for s in run], color=colour, linewidth=1)
    return End(name, end, colour, marker, line=line)


def _draw_measures(axes: Axes, rows: Sequence[Row], look: Mapping[str, CheckpointStyle], panels: int) -> None:
    places = {measure: i for i, measure in enumerate(_MEASURES)}
    names = list(dict.fromkeys(row.checkpoint for row in rows if row.checkpoint in look))
    lowest = min((max(_LEAST, 1 - row.estimate.value) for row in rows), default=_LEAST) / 2
    for row in rows:
        y, e = float(places[row.measure]), row.estimate
        value, near, far = (max(lowest, 1 - end) for end in (e.value, e.high, e.low))
        if row.checkpoint not in look:
            axes.plot([value] * 2, [y - 0.4, y + 0.4], color=MUTED, linestyle=(0, (2, 1)), linewidth=1.1)
            add_tooltips(axes.lines[-1], of_rows([row]))
            continue
        colour, marker = look[row.checkpoint]
        y += 0.5 * (names.index(row.checkpoint) - (len(names) - 1) / 2) / max(len(names), 2)
        axes.plot([near, far], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
        axes.plot([value], [y], color=colour, marker=marker, markersize=4, markeredgecolor="white", markeredgewidth=0.4)
        add_tooltips(axes.lines[-1], of_rows([row]))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=max(3, 12 // panels)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x > 2e-3 else _power(x)))
    axes.set_yticks(list(places.values()), labels=list(_MEASURES.values()))
    axes.set_ylim(len(places) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel("Distance from the base (right: farther)")


def _power(tick: float) -> str:
    return f"10{str(round(math.log10(tick))).translate(_SUPERSCRIPT)}"
