"""Pictures in rows and maps beside them in columns, each row with its score and its colour bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visprobe.attribution.map import Map
from visprobe.figures.attribution_colours import Scale, bar, painted
from visprobe.figures.attribution_sheet import Sheet
from visprobe.figures.attribution_text import fitted, in_two_lines, short_number
from visprobe.figures.style import INK, MUTED, ONE_COLUMN, TWO_COLUMNS, paper_style

# Lengths in inches.
_PAGE = 8.6
_MARGIN, _GAP = 0.05, 0.05
BAR_ROOM, BAR = 0.54, 0.08
_WIDEST = 1.25
_LINE = 0.13
_TEXTS = 2.5 * _LINE  # above and below a row of pictures
_TALLEST_BAR = 2.0
_NAME, SMALL = 6.5, 6.0  # points
_PAD = 4.0  # points between two names
_MOST_IN_ONE_COLUMN = 4


@dataclass(frozen=True)
class Layout:
    """Where everything stands in a table of `across` columns.

    Attributes:
        across: Columns with the picture.
        shapes: Height by width of each row's picture.
        head: Height of the columns' names.
    """

    across: int
    shapes: tuple[float, ...]
    head: float = 2 * _LINE

    @property
    def width(self) -> float:
        """Of the figure: one or two columns of a paper."""
        return ONE_COLUMN if self.across <= _MOST_IN_ONE_COLUMN else TWO_COLUMNS

    @property
    def cell(self) -> float:
        """Width of a picture."""
        return min(_WIDEST, (self.width - 2 * _MARGIN - BAR_ROOM) / self.across - _GAP)

    @cached_property
    def heights(self) -> list[float]:
        """Of the rows' pictures; a very tall one becomes narrower instead."""
        return [self.cell * min(shape, 1.5) for shape in self.shapes]

    @property
    def height(self) -> float:
        """Of the figure."""
        return self.head + 2 * _MARGIN + sum(self.heights) + (len(self.heights) - 0.1) * _TEXTS

    def left(self, column: int) -> float:
        """Left edge of a column."""
        return _MARGIN + column * (self.cell + _GAP)

    def bottom(self, row: int) -> float:
        """Lower edge of a row's pictures."""
        return self.height - self.head - _MARGIN - sum(self.heights[: row + 1]) - row * _TEXTS - _LINE


def pages(sheet: Sheet) -> list[Sheet]:
    """`sheet` in parts whose tables fit on a page of a paper each."""
    parts, start, across = list[Sheet](), 0, 1 + len(sheet.shown)
    for stop in range(1, len(sheet.pictures) + 1):
        last = stop == len(sheet.pictures)
        if last or Layout(across, _shapes(sheet.part(start, stop + 1))).height > _PAGE:
            parts.append(sheet.part(start, stop))
            start = stop
    return parts


def draw_table(
    sheet: Sheet, maps: Mapping[str, Sequence[Map]], scales: Sequence[Scale], number: Callable[[Map], str], said: str
) -> Figure:
    """The picture of each image, then its maps.

    Args:
        sheet: What the pictures are.
        maps: What the columns are called, to one map per picture.
        scales: For each picture the scale of all its maps.
        number: What stands below a map.
        said: What that is, below the picture.
    """
    shapes = _shapes(sheet)
    layout = Layout(1 + len(maps), shapes)
    heads = [in_two_lines(name, layout.cell * 72 - _PAD, _NAME) for name in ("picture", *maps)]
    heads.append(in_two_lines(sheet.map_unit, BAR_ROOM * 72, SMALL))
    layout = Layout(len(maps) + 1, shapes, (1.2 + max(head.count("\n") for head in heads)) * _LINE)
    with paper_style():
        figure = Figure((layout.width, layout.height))
        for row, (picture, scale) in enumerate(zip(sheet.pictures, scales, strict=True)):
            axes = _cell(figure, layout, row, 0)
            axes.imshow(np.asarray(picture.convert("RGB")), interpolation="none")
            _below(axes, fitted(said, layout.cell * 72, SMALL), MUTED)
            points = (layout.left(layout.across) - _MARGIN) * 72
            _write(figure, layout, _MARGIN, _top(layout, row) + 0.03, fitted(sheet.titles[row], points, SMALL), MUTED)
            for column, own in enumerate(maps.values(), 1):
                axes = _cell(figure, layout, row, column)
                axes.imshow(painted(picture, own[row], scale), interpolation="none")
                _below(axes, number(own[row]))
        for first, last, scale in _runs(scales):
            top = _top(layout, first)
            high = min(_TALLEST_BAR, top - layout.bottom(last))
            draw_bar(figure, (layout.left(layout.across) + 0.02, top - high, BAR, high), scale)
        _write_heads(figure, layout, heads)
    return figure


def _shapes(sheet: Sheet) -> tuple[float, ...]:
    return tuple(picture.height / picture.width for picture in sheet.pictures)


def _top(layout: Layout, row: int) -> float:
    return layout.bottom(row) + layout.heights[row]


def _cell(figure: Figure, layout: Layout, row: int, column: int) -> Axes:
    place = (layout.left(column), layout.bottom(row), layout.cell, layout.heights[row])
    return add_axes(figure, place)


def add_axes(figure: Figure, place: Sequence[float]) -> Axes:
    """Bare axes at left, bottom, width, height in inches."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((place[0] / wide, place[1] / high, place[2] / wide, place[3] / high))
    axes.set_axis_off()
    return axes


def _below(axes: Axes, text: str, colour: str = INK) -> None:
    axes.annotate(text, (0.5, 0), (0, -2), xycoords="axes fraction", textcoords="offset points", ha="center", va="top",
                  size=SMALL, color=colour)  # fmt: skip


def _write(figure: Figure, layout: Layout, x: float, y: float, text: str, colour: str) -> None:
    figure.text(x / layout.width, y / layout.height, text, size=SMALL, color=colour, va="bottom")


def _write_heads(figure: Figure, layout: Layout, heads: Sequence[str]) -> None:
    """The names of the columns, and above the bars the unit."""
    y = (layout.height - _MARGIN - layout.head + 0.5 * _LINE) / layout.height
    for column, name in enumerate(heads[:-1]):
        x = (layout.left(column) + layout.cell / 2) / layout.width
        figure.text(x, y, name, size=_NAME, ha="center", linespacing=1.05)
    figure.text(layout.left(layout.across) / layout.width, y, heads[-1], size=SMALL, color=MUTED, linespacing=1.05)


def _runs(scales: Sequence[Scale]) -> list[tuple[int, int, Scale]]:
    """First and last row of each bar: one for the figure where all rows have one scale, else one per row."""
    if len(set(scales)) == 1:
        return [(0, len(scales) - 1, scales[0])]
    return [(row, row, scale) for row, scale in enumerate(scales)]


def draw_bar(figure: Figure, place: Sequence[float], scale: Scale) -> None:
    """The colours of `scale` with its ends and 0, at left, bottom, width, height in inches."""
    axes = add_axes(figure, place)
    axes.imshow(bar(scale), aspect="auto", interpolation="none")
    ends = {0.0: scale.low, 1.0: scale.limit} if scale.limit else {0.0: 0.0}
    for y, value in ({0.5: 0.0} | ends if scale.signed else ends).items():
        side = "bottom" if y == 0 else "top" if y == 1 else "center"
        axes.annotate(short_number(value, 2), (1, y), (2, 0), xycoords="axes fraction", textcoords="offset points",
                      va=side, size=SMALL)  # fmt: skip
