"""Heat maps side by side on one scale, with one colour bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from visprobe.figures.labels import unique_short_labels
from visprobe.figures.style import TWO_COLUMNS, stacked
from visprobe.figures.text import fitted
from visprobe.figures.ticks import log_ticks

Table = Sequence[Sequence[float]]

COLOURS = "viridis"  # perceptually even, with and without colour vision, and in grey
_MOST_ACROSS = 4
_TITLE = 0.32  # inches above and below a panel
_BOLD = 9.0  # an 8-point bold title is as wide as regular text of this size
_PAD = 0.09  # inches: the numbers of a colour bar stand half a line above it
_FRAME = 0.9  # inches for axis labels and colour bar


def figure_of(panels: int, height_per_width: float, width: float | None) -> tuple[Figure, list[Axes]]:
    """Make a figure of `width` (two columns) with axes for `panels` maps of that shape, `most_across` in a row."""
    whole = width or TWO_COLUMNS
    across = most_across(panels, whole)
    down = math.ceil(panels / across)
    each = min((whole - _FRAME) / across, 2.4)
    figure = Figure(
        (whole, down * (each * height_per_width + _TITLE) + 0.4), layout=ConstrainedLayoutEngine(h_pad=_PAD, w_pad=_PAD)
    )
    every = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in every[panels:]:
        axes.set_axis_off()
    return figure, list(every[:panels])


def most_across(panels: int, width: float | None) -> int:
    """Return the number of maps in a row: four at most, two on a narrow figure."""
    return min(panels, 2 if stacked(width or TWO_COLUMNS) else _MOST_ACROSS)


def draw_map(axes: Axes, title: str, table: Table, norm: Normalize, square: bool = True) -> ScalarMappable:
    """Colour the cells of `table`, first row on top, under a title."""
    values = np.asarray(table, dtype=np.float64)
    # Cells get edges of their own colour: without, viewers of SVG show hairlines between them.
    mesh = axes.pcolormesh(values, norm=norm, cmap=COLOURS, edgecolors="face", linewidth=0.4)
    axes.set_ylim(len(values), 0)
    axes.set_aspect("equal" if square else "auto")
    axes.set_title(title)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def titles(names: Sequence[str], panels: Sequence[Axes]) -> list[str]:
    """Return names of checkpoints that fit above `panels` of `figure_of`."""
    points = 72 * _inches(panels[0])
    return unique_short_labels(names, lambda name: fitted(name, points, _BOLD))


def _inches(axes: Axes) -> float:
    """Return the width of a map of its figure, at most."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None and place is not None  # axes of `figure_of`
    return (figure.get_figwidth() - _FRAME) / place.get_gridspec().ncols - 0.1


def colour_bar(mesh: ScalarMappable, axes: Axes, label: str) -> None:
    """Draw the colour bar of a map and of those to its left, as tall as the map in `axes`, to its right."""
    place = axes.inset_axes((1.04, 0.0, 0.05, 1.0))
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes of `figure_of`
    bar = figure.colorbar(mesh, cax=place)
    place.spines["outline"].set_visible(False)
    for cells in place.collections:  # vector cells: a raster image would make the page larger and be blurred
        cells.set(rasterized=False, edgecolor="face", linewidth=0.4)
    if isinstance(mesh.norm, LogNorm):
        ticks, labels = log_ticks(mesh.norm.vmin or 1.0, mesh.norm.vmax or 1.0)
        bar.set_ticks(ticks, labels=labels)
        place.minorticks_off()
    bar.set_label(label)


def log_scale(tables: Mapping[str, Table], least: float) -> LogNorm:
    """Return a logarithmic scale over all tables; values below `least` are shown as `least`."""
    values = np.concatenate([np.ravel(table) for table in tables.values()] or [np.ones(1)])
    shown = values[values > least]
    low, high = (shown.min(), shown.max()) if shown.size else (least, 1.0)
    return LogNorm(low, max(high, low * 1.01), clip=True)


def linear_scale(tables: Sequence[Table], low: float | None = None, high: float | None = None) -> Normalize:
    """Return a linear scale over all tables, its ends fixed where they are given."""
    values = np.concatenate([np.ravel(table) for table in tables] or [np.ones(1)])
    least, most = (values.min() if low is None else low), (values.max() if high is None else high)
    return Normalize(float(least), float(max(most, least + 1e-9)))


def number_ticks(axis: str, axes: Axes, labels: Sequence[str], most: int = 8) -> None:
    """Label the centres of cells along "x" or "y", only every few where there are more than `most`."""
    every = max(1, math.ceil(len(labels) / most))
    places = [place for place in range(len(labels)) if place % every == 0]
    setter = axes.set_xticks if axis == "x" else axes.set_yticks
    setter([place + 0.5 for place in places], labels=[labels[place] for place in places])
