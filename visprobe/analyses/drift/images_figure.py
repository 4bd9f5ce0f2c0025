"""Figure of the distribution of single images' changes, and of the classes that stand out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.legend import legend_below
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.style import (
    MUTED,
    TWO_COLUMNS,
    CheckpointStyle,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
    stacked,
)
from visprobe.figures.ticks import log_ticks
from visprobe.results.result import BaselineKind, Result, Row

_CLASSES = "class_change/"
_ROW_INCHES = 0.17
_MARKS = 20  # points between two markers, of the 101 of a line


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the share of images that changed less than a given amount, and the classes that stand out, if any.

    Args:
        result: An "images" result, with settings["distribution"].
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    classes = [row for row in result.rows if row.measure.startswith(_CLASSES)]
    count = len({row.measure for row in classes})
    with paper_style():
        distribution = result.settings.get("distribution", {})
        wide = width or TWO_COLUMNS
        own = max(2.3, 0.6 + _ROW_INCHES * count)
        if classes and stacked(wide):
            figure = Figure((wide, 2.3 + own), layout="constrained")
            left, right = figure.subplots(2, 1, height_ratios=(2.3, own))
            _draw_classes(right, classes, look)
        elif classes:
            figure = Figure((wide, own), layout="constrained")
            left, right = figure.subplots(1, 2, width_ratios=(3, 2))
            _draw_classes(right, classes, look)
        else:
            figure = Figure((wide, 2.3), layout="constrained")
            left = figure.subplots()
        kinds = {row.checkpoint: row.baseline for row in result.rows}
        _draw_distribution(left, distribution, look, kinds)
        legend_below(figure, left.get_legend_handles_labels()[0])
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.measure.startswith(("image_change", _CLASSES)) and row.role == "value"]
    classes = any(row.measure.startswith(_CLASSES) for row in rows)
    right = " Right: mean change of the classes that moved measurably more or less than the other images." * classes
    return (
        "Single images: share of them whose features changed by less than a given length (relative to that of the "
        f"base's features, logarithmic axis) at {result.settings.get('consumed', 'the consumed site')}. Dashed: what "
        f"the change must be read against.{right} {rests_on(rows, 'images')}"
    )


def _draw_distribution(
    axes: Axes,
    distribution: Mapping[str, Sequence[float]],
    look: Mapping[str, CheckpointStyle],
    kinds: Mapping[str, BaselineKind | None],
) -> None:
    shares = np.linspace(0, 1, 101)
    for name, values in distribution.items():
        style = "-" if name in look else ":" if kinds.get(name) == "untrained" else "--"
        colour, marker = look.get(name, CheckpointStyle(MUTED, ""))
        axes.plot(values, shares, color=colour, linestyle=style, marker=marker, markevery=(_MARKS // 2, _MARKS),
                  markeredgecolor="white", markeredgewidth=0.4, label=name)  # fmt: skip
    positive = [value for values in distribution.values() for value in values if value > 0]
    if positive:
        axes.set_xscale("log")
        ticks, labels = log_ticks(min(positive), max(positive))
        axes.set_xticks(ticks, labels=labels)
        axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_ylabel("Images that changed less")
    axes.set_xlabel("Change of an image, |Δ| / |features|")
    axes.grid(True)


def _draw_classes(axes: Axes, rows: Sequence[Row], look: Mapping[str, CheckpointStyle]) -> None:
    names = list(dict.fromkeys(row.measure.removeprefix(_CLASSES) for row in rows))
    checkpoints = list(dict.fromkeys(row.checkpoint for row in rows))
    for row in rows:
        aside = 0.16 * (checkpoints.index(row.checkpoint) - (len(checkpoints) - 1) / 2)
        y, estimate = names.index(row.measure.removeprefix(_CLASSES)) + aside, row.estimate
        colour, marker = look[row.checkpoint]
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=0.9)
        axes.plot(estimate.value, y, color=colour, marker=marker, markeredgecolor="white", markeredgewidth=0.4)
        add_tooltips(axes.lines[-1], of_rows([row]))
    axes.set_yticks(range(len(names)), labels=[shorten(name, 20) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_xlabel("Mean change of the class")
