"""Figure of how far the weights of each checkpoint moved from the base, group by group."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from visprobe.analyses.drift.identical_figure import note_identical
from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.labels import class_label
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.panels import panels_of
from visprobe.figures.site_axis import label_sites, line_positions, place_sites, runs
from visprobe.figures.style import TWO_COLUMNS, CheckpointStyle, checkpoint_styles, checkpoints_of, paper_style
from visprobe.figures.ticks import log_y_axis
from visprobe.results.result import Result, Row


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the relative change, logarithmic, above the share of exactly equal weights, by depth and by class.

    Args:
        result: A "weights" result: rows of measures "matrix_change" and "share_equal".
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    identical, rounded = result.identical, result.rounded
    changes, shares = (_moved(result, measure, [*identical, *rounded]) for measure in ("matrix_change", "share_equal"))
    classes = result.settings.get("classes", [])
    depth = place_sites(result.settings.get("groups") or [row.site for row in result.rows])
    kinds = {name: float(place) for place, name in enumerate(classes)}
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    with paper_style():
        figure = Figure((width or TWO_COLUMNS, 3.6), layout="constrained")
        widths = [max(len(depth), len(kinds)), len(kinds)] if kinds else [1]
        grid = panels_of(figure, 2, len(widths), height_ratios=(3, 2), width_ratios=widths)
        panels = grid.axes
        zero = log_y_axis(panels[0, 0], [row.estimate.value for row in changes])
        for column, places in enumerate([depth, kinds][: len(widths)]):
            upper, lower = panels[:, column]
            ends = _draw_lines(upper, changes, places, look, lowest=zero)
            _draw_lines(lower, shares, places, look, lowest=0)
            for axes in (upper, lower):
                axes.grid(axis="y")
        label_sites(panels[1, 0], depth)
        if kinds:
            _label_classes(panels[1, 1], kinds)
        panels[1, 0].set_ylim(-0.04, 1.04)
        panels[1, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        label_ends(panels[0, -1], ends)
        note_identical(figure, identical, rounded)
        grid.label_row(0, "Matrices, median ‖ΔW‖ / ‖W‖")
        grid.label_row(1, "Exactly equal")
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n."""
    return (
        "Weight drift: median relative Frobenius change of those weight matrices of every group that changed (above, "
        "logarithmic axis) and "
        "the share of weights that are exactly equal to the base (below)"
        + (", by depth (left) and by what a weight of the tower does (right)" if result.settings.get("classes") else "")
        + f". {rests_on(result.rows, 'weights per group')}"
    )


def _moved(result: Result, measure: str, identical: Sequence[str]) -> list[Row]:
    """Return the rows to draw; of a tower that equals the base only the projector is left."""
    rows = result.select(measure=measure, role="value")
    return [row for row in rows if row.checkpoint not in identical or row.site == "projector"]


def _label_classes(axes: Axes, places: dict[str, float]) -> None:
    labels = [class_label(name) for name in places]
    axes.set_xticks(list(places.values()), labels=labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.8, len(places) - 0.2)


def _draw_lines(
    axes: Axes,
    rows: Sequence[Row],
    positions: dict[str, float],
    looks_by_name: dict[str, CheckpointStyle],
    lowest: float,
) -> list[End]:
    ends = []
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    for i, name in enumerate(names):
        look = looks_by_name[name]
        own = {row.site: row for row in rows if row.checkpoint == name}
        heights = {site: max(row.estimate.value, lowest) for site, row in own.items()}
        for run in runs([site for site in positions if site in heights]):
            x, y = line_positions(run, positions, i, len(names)), [heights[s] for s in run]
            axes.plot(x, y, color=look.colour, marker=look.marker, markeredgecolor="white", markeredgewidth=0.4)
            add_tooltips(axes.lines[-1], of_rows(own[site] for site in run))
            ends.append(End(name, y[-1], look.colour, look.marker))
    return list({end.name: end for end in ends}.values())
