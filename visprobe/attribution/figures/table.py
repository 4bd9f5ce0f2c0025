"""Table of pictures in rows and maps in columns, with scores and colour bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visprobe.attribution.figures.colours import Scale, bar, painted
from visprobe.attribution.figures.sheet import Sheet
from visprobe.attribution.map import Map
from visprobe.figures.style import INK, MUTED, ONE_COLUMN, SMALL, TWO_COLUMNS, paper_style
from visprobe.figures.text import fitted, in_two_lines, short_number

# Lengths in inches.
_PAGE = 8.6
_MARGIN, _GAP = 0.05, 0.05
BAR_ROOM, BAR = 0.57, 0.08
_WIDEST, _NARROWEST = 1.25, 0.55
_LINE = 0.14
_TEXTS = 2.5 * _LINE  # above and below a row of pictures
_TALLEST_BAR = 2.0
_PAD = 4.0  # points between two names
_MOST_IN_ONE_COLUMN = 4


@dataclass(frozen=True)
class Layout:
    """Positions in inches of everything in a table of `across` columns.

    Attributes:
        across: Number of columns, that of the picture included.
        shapes: Height divided by width of each row's picture.
        head: Height of the column names.
        given: Width of the figure; one or two columns of a paper if None.
        floor: Height of everything below the table.
    """

    across: int
    shapes: tuple[float, ...]
    head: float = 2 * _LINE
    given: float | None = None
    floor: float = 0.0

    @property
    def width(self) -> float:
        """Width of the figure."""
        return self.given or (ONE_COLUMN if self.across <= _MOST_IN_ONE_COLUMN else TWO_COLUMNS)

    @property
    def cell(self) -> float:
        """Width of a picture."""
        return min(_WIDEST, (self.width - 2 * _MARGIN - BAR_ROOM) / self.across - _GAP)

    @cached_property
    def heights(self) -> list[float]:
        """Heights of the rows' pictures; a very tall one becomes narrower instead."""
        return [self.cell * min(shape, 1.5) for shape in self.shapes]

    @property
    def height(self) -> float:
        """Height of the table."""
        return self.head + 2 * _MARGIN + sum(self.heights) + (len(self.heights) - 0.1) * _TEXTS

    def left(self, column: int) -> float:
        """Return the left edge of a column."""
        return _MARGIN + column * (self.cell + _GAP)

    def bottom(self, row: int) -> float:
        """Return the lower edge of a row's pictures."""
        return self.floor + self.height - self.head - _MARGIN - sum(self.heights[: row + 1]) - row * _TEXTS - _LINE


def pages(sheet: Sheet) -> list[Sheet]:
    """Split `sheet` into parts whose tables fit on a page of a paper each."""
    parts, start, across = list[Sheet](), 0, 1 + len(sheet.shown)
    for stop in range(1, len(sheet.pictures) + 1):
        last = stop == len(sheet.pictures)
        if last or Layout(across, _shapes(sheet.part(start, stop + 1))).height > _PAGE:
            parts.append(sheet.part(start, stop))
            start = stop
    return parts


def draw_table(
    sheet: Sheet,
    maps: Mapping[str, Sequence[Map]],
    scales: Sequence[Scale],
    number: Callable[[Map], str],
    said: str,
    width: float | None = None,
) -> Figure:
    """Draw each picture, then its maps; maps beyond the width go into a second table below.

    Args:
        sheet: Pictures and titles.
        maps: One map per picture by the name of the column.
        scales: Colour scale of each picture's maps.
        number: Text below a map.
        said: Label of that text, below the picture.
        width: Inches; one or two columns of a paper if None.
    """
    most = len(maps) if width is None else max(1, int((width - BAR_ROOM) / (_NARROWEST + _GAP)) - 1)
    parts = [dict(list(maps.items())[start : start + most]) for start in range(0, len(maps), most)]
    layouts, floor = list[Layout](), 0.0
    for part in reversed(parts):
        layouts.insert(0, _layout(sheet, part, len(parts[0]), width, floor))
        floor += layouts[0].height
    with paper_style():
        figure = Figure((layouts[0].width, floor))
        for part, layout in zip(parts, layouts, strict=True):
            _draw_part(figure, layout, sheet, part, scales, number, said)
    return figure


def _layout(sheet: Sheet, maps: Mapping[str, Sequence[Map]], columns: int, width: float | None, floor: float) -> Layout:
    layout = Layout(1 + columns, _shapes(sheet), given=width, floor=floor)
    lines = max(head.count("\n") for head in _heads(layout, sheet, maps))
    return replace(layout, head=(1.2 + lines) * _LINE)


def _heads(layout: Layout, sheet: Sheet, maps: Mapping[str, Sequence[Map]]) -> list[str]:
    """Return the names of the columns, and the unit above the bars."""
    heads = [in_two_lines(name, layout.cell * 72 - _PAD, SMALL) for name in ("picture", *maps)]
    return [*heads, in_two_lines(sheet.map_unit, BAR_ROOM * 72, SMALL)]


def _draw_part(
    figure: Figure,
    layout: Layout,
    sheet: Sheet,
    maps: Mapping[str, Sequence[Map]],
    scales: Sequence[Scale],
    number: Callable[[Map], str],
    said: str,
) -> None:
    for row, (picture, scale) in enumerate(zip(sheet.pictures, scales, strict=True)):
        axes = _cell(figure, layout, row, 0)
        axes.imshow(np.asarray(picture.convert("RGB")), interpolation="none")
        _below(axes, fitted(said, layout.cell * 72, SMALL), MUTED)
        points = (layout.left(layout.across) - _MARGIN) * 72
        _write(figure, _MARGIN, _top(layout, row) + 0.03, fitted(sheet.titles[row], points, SMALL))
        for column, own in enumerate(maps.values(), 1):
            axes = _cell(figure, layout, row, column)
            axes.imshow(painted(picture, own[row], scale), interpolation="none")
            _below(axes, number(own[row]))
    for first, last, scale in _runs(scales):
        top = _top(layout, first)
        high = min(_TALLEST_BAR, top - layout.bottom(last))
        draw_bar(figure, (layout.left(layout.across) + 0.02, top - high, BAR, high), scale)
    _write_heads(figure, layout, _heads(layout, sheet, maps))


def _shapes(sheet: Sheet) -> tuple[float, ...]:
    return tuple(picture.height / picture.width for picture in sheet.pictures)


def _top(layout: Layout, row: int) -> float:
    return layout.bottom(row) + layout.heights[row]


def _cell(figure: Figure, layout: Layout, row: int, column: int) -> Axes:
    place = (layout.left(column), layout.bottom(row), layout.cell, layout.heights[row])
    return add_axes(figure, place)


def add_axes(figure: Figure, place: Sequence[float]) -> Axes:
    """Add bare axes at left, bottom, width, height in inches."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((place[0] / wide, place[1] / high, place[2] / wide, place[3] / high))
    axes.set_axis_off()
    return axes


def _below(axes: Axes, text: str, colour: str = INK) -> None:
    axes.annotate(text, (0.5, 0), (0, -2), xycoords="axes fraction", textcoords="offset points", ha="center", va="top",
                  size=SMALL, color=colour)  # fmt: skip


def _write(figure: Figure, x: float, y: float, text: str) -> None:
    wide, high = figure.get_size_inches()
    figure.text(x / wide, y / high, text, size=SMALL, color=MUTED, va="bottom")


def _write_heads(figure: Figure, layout: Layout, heads: Sequence[str]) -> None:
    wide, high = figure.get_size_inches()
    y = (layout.floor + layout.height - _MARGIN - layout.head + 0.5 * _LINE) / high
    for column, name in enumerate(heads[:-1]):
        x = (layout.left(column) + layout.cell / 2) / wide
        figure.text(x, y, name, size=SMALL, ha="center", linespacing=1.05)
    figure.text(layout.left(layout.across) / wide, y, heads[-1], size=SMALL, color=MUTED, linespacing=1.05)


def _runs(scales: Sequence[Scale]) -> list[tuple[int, int, Scale]]:
    """Return first and last row of each bar: one bar for all rows if they share a scale, else one per row."""
    if len(set(scales)) == 1:
        return [(0, len(scales) - 1, scales[0])]
    return [(row, row, scale) for row, scale in enumerate(scales)]


def draw_bar(figure: Figure, place: Sequence[float], scale: Scale) -> None:
    """Draw the colours of `scale` with its ends and 0, at left, bottom, width, height in inches."""
    axes = add_axes(figure, place)
    axes.imshow(bar(scale), aspect="auto", interpolation="none")
    ends = {0.0: scale.low, 1.0: scale.limit} if scale.limit else {0.0: 0.0}
    for y, value in ({0.5: 0.0} | ends if scale.signed else ends).items():
        side = "bottom" if y == 0 else "top" if y == 1 else "center"
        axes.annotate(short_number(value, 2), (1, y), (2, 0), xycoords="axes fraction", textcoords="offset points",
                      va=side, size=SMALL)  # fmt: skip
