"""Figure: how far the weights of each checkpoint moved from the base, group by group."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from visprobe.analyses.result import Result, Row
from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.identical import note_identical
from visprobe.figures.labels import shorten
from visprobe.figures.log_axis import log_y_axis
from visprobe.figures.site_axis import label_sites, line_positions, place_sites, runs
from visprobe.figures.style import TWO_COLUMNS, Look, checkpoints_of, looks, paper_style


def draw(result: Result, checkpoints: Sequence[str] = ()) -> Figure:
    """Relative change of every weight group on a logarithmic axis, above the share of exactly equal weights.

    Args:
        result: A "weights" result: rows of measures "relative_change" and "share_equal".
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
    """
    identical = result.settings.get("identical", [])
    changes, shares = (_moved(result, measure, identical) for measure in ("relative_change", "share_equal"))
    positions = place_sites(result.settings.get("groups") or [row.site for row in result.rows])
    look = looks([*checkpoints, *checkpoints_of(result)])
    with paper_style():
        figure = Figure((TWO_COLUMNS, 3.6), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        zero = log_y_axis(upper, [row.estimate.value for row in changes])
        ends = _draw_lines(upper, changes, positions, look, lowest=zero)
        _draw_lines(lower, shares, positions, look, lowest=0)
        label_sites(lower, positions)
        lower.set_ylim(-0.04, 1.04)
        lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        for axes in (upper, lower):
            axes.grid(axis="y")
        label_ends(upper, ends)
        note_identical(figure, identical)
        upper.set_ylabel("Relative change, ‖ΔW‖ / ‖W‖")
        lower.set_ylabel("Exactly equal")
    return figure


def caption(result: Result) -> str:
    """The caption of `draw(result)`."""
    return (
        "Weight drift: relative Frobenius change of every weight group from the base (above, logarithmic axis) and "
        f"the share of weights that are exactly equal to the base (below). {rests_on(result.rows, 'weights per group')}"
    )


def _moved(result: Result, measure: str, identical: Sequence[str]) -> list[Row]:
    """The rows to draw; of a tower that equals the base only the projector is left."""
    rows = result.select(measure=measure, role="value")
    return [row for row in rows if row.checkpoint not in identical or row.site == "projector"]


def _draw_lines(
    axes: Axes, rows: Sequence[Row], positions: dict[str, float], looks_by_name: dict[str, Look], lowest: float
) -> list[End]:
    ends = []
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    for i, name in enumerate(names):
        look = looks_by_name[name]
        heights = {row.site: max(row.estimate.value, lowest) for row in rows if row.checkpoint == name}
        for run in runs([site for site in positions if site in heights]):
            x, y = line_positions(run, positions, i, len(names)), [heights[s] for s in run]
            axes.plot(x, y, color=look.colour, marker=look.marker, markeredgecolor="white", markeredgewidth=0.4)
            ends.append(End(shorten(name), y[-1], look.colour, look.marker))
    return list({end.name: end for end in ends}.values())
