"""Figure of scene attributes that can be read from each checkpoint's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.legend import legend_below
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.style import (
    MUTED,
    RULE,
    TWO_COLUMNS,
    CheckpointStyle,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
)
from visprobe.figures.text import in_two_lines
from visprobe.results.read_site import read_label
from visprobe.results.result import Result, Row

_PLACES = {
    "consumed": "{read}, mean over the image",
    "projected": "After the projector, mean over the image",
    "quarters": "{site}, mean over each quarter of the image",
}
_ROW_INCHES = 0.24
_LINE_INCHES = 0.068  # between checkpoints of one row
_FRAME_INCHES = 0.5
_TITLE = 0.6  # share of the figure's width
_BOLD = 9.0  # regular font size in points that is as wide as 8 points in bold


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw accuracy with intervals, one line per attribute, one panel per place.

    Args:
        result: An "attributes" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour in all figures;
            those of `result` if empty.
        width: Width in inches; two columns of a paper if None.
    """
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    shown = [row for row in result.rows if row.role != "difference" and row.measure.startswith("attribute_")]
    parts = {place: [row for row in shown if _place(row) == place] for place in _PLACES}
    parts = {place: rows for place, rows in parts.items() if rows}
    with paper_style():
        counts = [len({row.measure for row in rows}) for rows in parts.values()]
        row = max(_ROW_INCHES, _LINE_INCHES * len({one.checkpoint for one in shown if one.role == "value"}))
        figure = Figure(
            (width or TWO_COLUMNS, 0.4 + sum(row * n + _FRAME_INCHES for n in counts)), layout="constrained"
        )
        panels = figure.subplots(max(1, len(parts)), 1, sharex=True, squeeze=False, height_ratios=counts or None)[:, 0]
        for axes, (place, rows) in zip(panels, parts.items(), strict=False):
            _draw_place(axes, rows, look, result.settings.get("chance", {}))
            consumed = result.settings.get("consumed", "Consumed site")
            title = _PLACES[place].format(read=read_label(result), site=consumed)
            axes.set_title(in_two_lines(title, 72 * _TITLE * figure.get_figwidth(), _BOLD))
        panels[-1].set_xlabel("Scenes answered correctly")
        legend_below(figure, _legend(shown, look))
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.role == "value"]
    return (
        "Linear probes of what is in a scene, trained on the training scenes. From the mean over the image a probe "
        "must tell where something is from what the mean keeps; a quarter gives the place away. Dashes: untrained "
        "encoder; crosses: the most frequent answer; dotted: equal chances. Read differences between checkpoints in "
        f"the paired table. {rests_on(rows, 'images')}"
    )


def _place(row: Row) -> str:
    return row.measure.partition("/")[0].removeprefix("attribute_")


def _draw_place(
    axes: Axes, rows: Sequence[Row], look: Mapping[str, CheckpointStyle], chance: Mapping[str, float]
) -> None:
    names = list(dict.fromkeys(row.measure.partition("/")[2] for row in rows))
    checkpoints = [name for name in look if any(row.checkpoint == name for row in rows)]
    for y, name in enumerate(names):
        axes.axhline(y + 0.5, color=RULE, linewidth=0.4)
        if name in chance:
            axes.plot([chance[name]] * 2, [y - 0.42, y + 0.42], color=MUTED, linestyle=":", linewidth=0.9)
        for row in (row for row in rows if row.measure.partition("/")[2] == name):
            estimate = row.estimate
            if row.role == "baseline":
                untrained = row.baseline == "untrained"
                axes.plot([estimate.value], [y], color=MUTED, marker="|" if untrained else "x",
                          markersize=9 if untrained else 3.5)  # fmt: skip
                add_tooltips(axes.lines[-1], of_rows([row]))
                continue
            colour, marker = look[row.checkpoint]
            place = y + 0.6 * (checkpoints.index(row.checkpoint) - (len(checkpoints) - 1) / 2) / max(
                len(checkpoints), 2
            )
            axes.plot([estimate.low, estimate.high], [place] * 2, color=colour, linewidth=1.2, solid_capstyle="butt")
            axes.plot([estimate.value], [place], color=colour, marker=marker, markeredgecolor="white",
                      markeredgewidth=0.4)  # fmt: skip
            add_tooltips(axes.lines[-1], of_rows([row]))
    axes.set_yticks(range(len(names)), labels=[shorten(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(0, 1.005)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
    axes.grid(axis="x")


def _legend(rows: Sequence[Row], look: Mapping[str, CheckpointStyle]) -> list[Line2D]:
    kinds = {row.checkpoint: row.baseline for row in rows}
    handles = []
    for name, kind in kinds.items():
        if name in look:
            handles.append(Line2D([], [], color=look[name].colour, marker=look[name].marker, label=name))
        else:
            marker = "|" if kind == "untrained" else "x"
            handles.append(Line2D([], [], color=MUTED, marker=marker, linestyle="", label=name))
    return [*handles, Line2D([], [], color=MUTED, linestyle=":", label="equal chances")]
