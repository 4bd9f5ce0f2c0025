"""Figure of one image's maps over training, with the score at each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from visprobe.attribution.figures.colours import painted, scale_of
from visprobe.attribution.figures.sheet import Sheet
from visprobe.attribution.figures.table import BAR, BAR_ROOM, add_axes, draw_bar
from visprobe.errors import UsageError
from visprobe.figures.marks import add_tooltips
from visprobe.figures.style import INK, MUTED, SMALL, TWO_COLUMNS, paper_style
from visprobe.figures.text import fitted, in_two_lines

MOST_STEPS = 9
_MARGIN, _GAP, _LINE = 0.05, 0.05, 0.13  # inches
_UNDER, _PANEL = 0.42, 0.75  # heights of the step labels and of the score's panel
_TALLEST = 1.5
_NARROWEST = 0.55  # inches of a map with its gap


def draw(sheet: Sheet, steps: Sequence[int], width: float | None = None) -> Figure:
    """Draw the picture, then the positive part of its map at each step on one scale, with the score below each map.

    Args:
        sheet: One picture as the tower saw it, with its maps at each step of training, in order, the base first.
        steps: Optimizer step of each map; 0 is the base.
        width: Inches; as wide as its maps need, two columns of a paper at most, if None.

    Raises:
        UsageError: If there is not exactly one picture, or not one step per map.
    """
    places, maps = _places(sheet, steps, _most(width)), [maps[0] for maps in sheet.maps.values()]
    scale, picture = scale_of([maps[place] for place in places], False), sheet.pictures[0]
    cell = min(1.25, ((width or TWO_COLUMNS) - 2 * _MARGIN - BAR_ROOM) / (1 + len(places)) - _GAP)
    high = cell * min(picture.height / picture.width, _TALLEST)
    low = _UNDER + _PANEL + _GAP
    lefts = [_MARGIN + number * (cell + _GAP) for number in range(2 + len(places))]
    with paper_style():
        unit = in_two_lines(sheet.map_unit, BAR_ROOM * 72, SMALL)
        figure = Figure(
            (width or lefts[-1] + BAR_ROOM + _MARGIN, low + high + (1 + unit.count("\n")) * _LINE + _MARGIN)
        )
        shown = [np.asarray(picture.convert("RGB")), *(painted(picture, maps[place], scale) for place in places)]
        for left, one in zip(lefts, shown, strict=False):
            add_axes(figure, (left, low, cell, high)).imshow(one, interpolation="none")
        draw_bar(figure, (lefts[-1] + 0.02, low, BAR, high), scale)
        y = low + high + 0.03
        _write(figure, lefts[0], y, fitted(sheet.titles[0], (lefts[-1] - _MARGIN) * 72, SMALL))
        _write(figure, lefts[-1], y, unit)
        first, last = lefts[1], lefts[-1] - _GAP
        _draw_scores(figure, (first, _UNDER, last - first, _PANEL), [maps[place].score for place in places],
                     [steps[place] for place in places], sheet.unit, cell / (cell + _GAP))  # fmt: skip
    return figure


def caption(sheet: Sheet, steps: Sequence[int]) -> str:
    """Return the caption of `draw(sheet, steps)`."""
    shown = len(_places(sheet, steps, MOST_STEPS))
    limit = f" {shown} of {len(steps)} moments are shown, the first and the last among them." * (shown < len(steps))
    return (
        f"Maps of {sheet.method} at {sheet.site} during training, after the picture as the tower sees it. Positive: "
        f"{sheet.meaning}; negative values are drawn as 0. One square is one patch, not interpolated. One colour scale "
        f"for all steps, in {sheet.map_unit}. Below each map the score at that step in {sheet.unit}; dashed: that of "
        f"the first. Columns follow each other in order and not in proportion to their steps.{limit} n = 1 image; "
        "single maps, no interval."
    )


def _most(width: float | None) -> int:
    """Return the number of maps that fit in a row."""
    return MOST_STEPS if width is None else min(MOST_STEPS, max(2, int((width - BAR_ROOM) / _NARROWEST) - 1))


def _places(sheet: Sheet, steps: Sequence[int], most: int) -> list[int]:
    """Return the indices of the maps to show: all, or some spread evenly over training."""
    if len(sheet.pictures) != 1 or len(steps) != len(sheet.maps):
        raise UsageError(
            f"{len(sheet.pictures)} pictures, {len(sheet.maps)} maps and {len(steps)} steps do not make a strip",
            hint="Give one picture, and one step per map.",
        )
    return spread(len(steps), most)


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers from 0 to `count` - 1, evenly spread, with the first and the last."""
    return [round(place) for place in np.linspace(0, count - 1, min(most, count)).tolist()]


def _write(figure: Figure, x: float, y: float, text: str) -> None:
    wide, high = figure.get_size_inches()
    figure.text(x / wide, y / high, text, size=SMALL, color=MUTED)


def _draw_scores(
    figure: Figure, place: Sequence[float], scores: Sequence[float], steps: Sequence[int], unit: str, filled: float
) -> None:
    axes = add_axes(figure, place)
    axes.set_axis_on()
    axes.axhline(scores[0], color=MUTED, linestyle="--", linewidth=0.9)
    axes.plot(range(len(steps)), scores, color=INK, marker="o", markeredgecolor="white", markeredgewidth=0.4)
    add_tooltips(
        axes.lines[-1], (f"step {step:,}: score {score:.4g} {unit}" for step, score in zip(steps, scores, strict=True))
    )
    axes.set_xlim(-filled / 2, len(steps) - 1 + filled / 2)  # each point below the middle of its map
    axes.set_xticks(range(len(steps)), labels=[f"{step:,}" for step in steps])
    axes.set_xlabel("Optimizer step")
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.set_ylabel(fitted(f"Score, {unit}", place[3] * 72, SMALL))
