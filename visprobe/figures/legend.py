"""Legend below all panels, in as many columns as its names leave room for."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from visprobe.figures.labels import shorten, unique_short_labels
from visprobe.figures.style import SMALL
from visprobe.figures.text import width_of

_KEY, _GAP = 2.6, 1.6  # ems of a key with the space after it, and between columns
_LINE = 1.55  # ems from line to line
_MOST, _LETTERS = 6, 36


def legend_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend of `handles` below the panels of `figure`, which grows by its height.

    An existing legend is continued, without repeating a name.
    """
    kept = [handle for legend in figure.legends for handle in legend.legend_handles if isinstance(handle, Line2D)]
    before = [str(text.get_text()) for legend in figure.legends for text in legend.get_texts()]
    every = {(str(one.get_label()), str(one.get_color()), str(one.get_marker())): one for one in (*kept, *handles)}
    labels = unique_short_labels([label for label, _, _ in every], lambda label: shorten(label, _LETTERS))
    for legend in list(figure.legends):
        legend.remove()
    width = figure.get_figwidth()
    figure.set_figheight(figure.get_figheight() + _height(labels, width) - _height(before, width))
    figure.legend(
        list(every.values()), labels, loc="outside lower center", ncols=legend_columns(labels, width),
        frameon=False, handlelength=2.0, handletextpad=0.6, columnspacing=_GAP, borderpad=0.2, labelspacing=0.35,
    )  # fmt: skip


def legend_columns(labels: Sequence[str], inches: float) -> int:
    """Return how many of `labels` fit side by side in a width, six at most."""
    widest = max(map(width_of, labels), default=0.0)
    room = inches * 72 / SMALL - 1
    return max(1, min(_MOST, len(labels), int((room + _GAP) / (_KEY + widest + _GAP))))


def _height(labels: Sequence[str], inches: float) -> float:
    return (-(-len(labels) // legend_columns(labels, inches)) * _LINE + 1) * SMALL / 72 if labels else 0.0
