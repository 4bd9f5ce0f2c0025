"""Figure of the maps of each checkpoint, image by image, on one colour scale over all checkpoints."""

from __future__ import annotations

from matplotlib.figure import Figure

from visprobe.attribution.figures.colours import scale_of
from visprobe.attribution.figures.sheet import Sheet, what_is_shown
from visprobe.attribution.figures.table import draw_table
from visprobe.figures.text import short_number


def draw(sheet: Sheet, width: float | None = None) -> Figure:
    """Draw each picture, then the positive part of its map under every checkpoint, with the score below.

    Args:
        sheet: Pictures as the tower saw them, with their maps; `pages` splits one that is too long for a page.
        width: Inches; one or two columns of a paper, by the number of columns, if None.
    """
    scales = [scale_of((maps[row] for maps in sheet.shown.values()), False) for row in range(len(sheet.pictures))]
    return draw_table(sheet, sheet.shown, scales, lambda one: short_number(one.score), "score:", width)


def caption(sheet: Sheet) -> str:
    """Return the caption of `draw(sheet)`: meaning of colours and numbers, and n."""
    every = [one.values for maps in sheet.shown.values() for one in maps]
    hidden = -sum(float(values.clamp(max=0).sum()) for values in every)
    whole = sum(float(values.abs().sum()) for values in every)
    empty = sum(not bool((values > 0).any()) for values in every)
    negative = (
        f" Negative values are drawn as 0; they hold {100 * hidden / whole:.0f} % of the sum of absolute values."
        if hidden
        else ""
    )
    return (
        f"Maps of {sheet.method} at {sheet.site}, after the picture as the tower sees it. Positive: {sheet.meaning}."
        f"{negative}{f' {empty} of {len(every)} maps have no positive value.' if empty else ''} One square is one "
        f"patch, not interpolated. One colour scale per image, the same for all checkpoints, in {sheet.map_unit}; "
        f"below each map the checkpoint's score in {sheet.unit}. {what_is_shown(sheet)}"
    )
