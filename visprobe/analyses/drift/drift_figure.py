"""Figure: how far the representation of each checkpoint is from the base, from block to block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visprobe.analyses.drift.identical import note_identical
from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.log_axis import log_y_axis
from visprobe.figures.marks import at_sites, tell
from visprobe.figures.site_axis import label_sites, line_positions, place_sites, runs
from visprobe.figures.style import MUTED, TWO_COLUMNS, Look, checkpoints_of, floor_line, looks, paper_style
from visprobe.results.result import Estimate, Result, Role, Row

_ROUNDING = 1e-11  # equal features give a CKA of 1 up to the last bits of float64 sums


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """1 − CKA to the base at every site on a logarithmic axis, with intervals and both floors.

    CKA after fine-tuning is mostly above 0.9, where a linear axis shows nothing; its distance from 1 spans decades.

    Args:
        result: A "drift" result: rows of measure "cka" with roles "value" and "floor".
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    rows = [row for row in result.select(measure="cka") if row.role != "difference"]
    positions = place_sites(result.sites or [row.site for row in rows])
    look = looks([*checkpoints, *checkpoints_of(result)])
    with paper_style():
        figure = Figure((width or TWO_COLUMNS, 2.9), layout="constrained")
        axes = figure.subplots()
        zero = log_y_axis(axes, [_distance(row.estimate.value) for row in rows])
        label_sites(axes, positions, result)
        axes.grid(axis="y")
        floors = _draw_floors(axes, rows, positions, zero)
        label_ends(axes, floors + _draw_checkpoints(axes, rows, positions, look, zero))
        note_identical(figure, result.identical)
        axes.set_ylabel("Distance to the base, 1 − CKA")
    return figure


def caption(result: Result) -> str:
    """The caption of `draw(result)`, with n and the interval method."""
    rows = [row for row in result.select(measure="cka") if row.role != "difference"]
    return (
        "Representation drift: distance of each checkpoint's features from the base (1 − debiased linear CKA, "
        "logarithmic axis, higher is farther) at every site from the input to the projector. Grey: what the "
        f"drift must be read against. {rests_on(rows, 'images')}"
    )


def _distance(cka: float) -> float:
    return 0.0 if abs(1 - cka) < _ROUNDING else 1 - cka


def _lines(rows: Sequence[Row], role: Role) -> dict[str, dict[str, Estimate]]:
    """Estimates by checkpoint or floor, then by site."""
    lines: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        if row.role == role:
            lines.setdefault(row.checkpoint, {})[row.site] = row.estimate
    return lines


def _draw_checkpoints(
    axes: Axes, rows: Sequence[Row], positions: Mapping[str, float], look: Mapping[str, Look], zero: float
) -> list[End]:
    ends = []
    lines = _lines(rows, "value")
    for i, (name, estimates) in enumerate(lines.items()):
        colour, marker = look[name]
        for run in runs([site for site in positions if site in estimates]):
            x = line_positions(run, positions, i, len(lines))
            y, near, far = (
                [max(_distance(bound), zero) for bound in bounds]
                for bounds in zip(*((e.value, e.high, e.low) for e in map(estimates.__getitem__, run)), strict=True)
            )
            axes.plot(x, y, color=colour, marker=marker, markeredgecolor="white", markeredgewidth=0.4, zorder=3)
            tell(axes.lines[-1], at_sites(name, run, [estimates[site] for site in run]))
            if len(run) > 1:
                axes.fill_between(x, near, far, color=colour, alpha=0.18, linewidth=0, zorder=2)
            else:
                axes.vlines(x, near, far, color=colour, linewidth=1, zorder=2)
        ends.append(End(name, y[-1], colour, marker))
    return ends


def _draw_floors(axes: Axes, rows: Sequence[Row], positions: Mapping[str, float], zero: float) -> list[End]:
    ends = []
    for name, estimates in _lines(rows, "floor").items():
        for run in runs([site for site in positions if site in estimates]):
            y = [max(_distance(estimates[site].value), zero) for site in run]
            x = [positions[site] for site in run]
            if len(run) == 1:
                x, y = [x[0] - 0.4, x[0] + 0.4], y * 2
            axes.plot(x, y, color=MUTED, linestyle=floor_line(name), linewidth=0.9)
            tell(axes.lines[-1], at_sites(name, run, [estimates[site] for site in run]))
        ends.append(End(name, y[-1], MUTED, line=floor_line(name)))
    return ends
