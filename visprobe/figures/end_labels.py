"""Names beside the ends of lines, pushed apart where they would overlap; a legend on a narrow figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from visprobe.figures.labels import unique_short_labels
from visprobe.figures.legend import legend_below
from visprobe.figures.style import SMALL, LineStyle, stacked

_LINE_HEIGHT = 9.5  # points


class End(NamedTuple):
    """End of a line: its name, its height in data units, and the style of its key."""

    name: str
    height: float
    colour: str
    marker: str = ""
    line: LineStyle = "-"


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Write each name to the right of `axes`, as near to its height as the others allow, with a key before it.

    The axis limits have to be set before. A figure of one column has no room there: its names go into a legend.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not ends:
        return
    if stacked(figure.get_figwidth()):
        legend_below(figure, [_key(end) for end in ends])
        return
    step = _LINE_HEIGHT / (72 * figure.get_figheight() * axes.get_position().height)
    to_fraction = axes.transScale + axes.transLimits
    wanted = [float(to_fraction.transform((0, end.height))[1]) for end in ends]
    names = unique_short_labels([end.name for end in ends])
    for end, name, y in zip(ends, names, spread(wanted, step), strict=True):
        key = _key(end)
        key.set(data=([1.015, 1.055], [y, y]), markevery=[1], transform=axes.transAxes, clip_on=False)
        axes.add_line(key)
        axes.annotate(name, (1.075, y), xycoords="axes fraction", va="center", ha="left", size=SMALL)


def _key(end: End) -> Line2D:
    key = Line2D([], [], color=end.colour, linewidth=1.1, marker=end.marker, label=end.name)
    key.set_linestyle(end.line)
    return key


def spread(wanted: Sequence[float], step: float) -> list[float]:
    """Return positions near `wanted`, in the same order, at least `step` apart, within 0 and 1 where they fit.

    Args:
        wanted: Positions between 0 and 1.
        step: Least distance between two of them.
    """
    # Upwards pushes overlaps apart, downwards brings back what left the top.
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = 0.0
    for i in order:
        placed[i] = floor = max(wanted[i], floor)
        floor += step
    ceiling = 1.0
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - step
    return placed
