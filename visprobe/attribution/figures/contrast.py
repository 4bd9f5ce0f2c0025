"""Figure of maps for the chosen answer, the rejected one, and their difference."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from visprobe.attribution.figures.colours import scale_of
from visprobe.attribution.figures.sheet import Sheet, what_is_shown
from visprobe.attribution.figures.table import draw_table
from visprobe.attribution.map import Map
from visprobe.figures.labels import shorten
from visprobe.figures.text import short_number

COLUMNS = ("chosen", "rejected", "contrast")


def contrast_sheet(
    pictures: Sequence[Image.Image],
    titles: Sequence[str],
    chosen: Sequence[Map],
    rejected: Sequence[Map],
    contrast: Sequence[Map],
    unit: str,
) -> Sheet:
    """Make the sheet of one checkpoint's maps for three scores.

    Args:
        pictures: RGB images as the tower saw them (`Sheet`).
        titles: Question about each image.
        chosen: Maps of the chosen answer's score.
        rejected: Maps of the rejected answer's score.
        contrast: Maps of the first score minus the second.
        unit: Unit of the scores.
    """
    return Sheet(pictures, titles, dict(zip(COLUMNS, (chosen, rejected, contrast), strict=True)), unit)


def draw(sheet: Sheet, width: float | None = None) -> Figure:
    """Draw each picture, then its signed maps for the chosen answer, the rejected one and their contrast.

    Args:
        sheet: Sheet of `contrast_sheet`.
        width: Inches; one or two columns of a paper, by the number of columns, if None.
    """
    scales = [scale_of((maps[row] for maps in sheet.maps.values()), True) for row in range(len(sheet.pictures))]
    return draw_table(sheet, sheet.maps, scales, lambda one: short_number(one.score), "score:", width)


def caption(sheet: Sheet, checkpoint: str) -> str:
    """Return the caption of `draw(sheet)`.

    Args:
        sheet: Sheet of `contrast_sheet`.
        checkpoint: Name of the checkpoint.
    """
    return (
        f"{shorten(checkpoint, 48)}: {sheet.method} maps at {sheet.site} of the chosen answer, of the rejected one, "
        "and of their contrast (the first score minus the second), all at the same weights, after the picture as the "
        f"tower sees it. Orange, positive: {sheet.meaning}; in the contrast, that of chosen over rejected. Blue: the "
        "opposite. One square is one patch, not interpolated. One symmetric colour scale per image, the same for its "
        f"three maps, in {sheet.map_unit}; below each map its score in {sheet.unit}. {what_is_shown(sheet)}"
    )
