"""Figure of the maps of each checkpoint minus those of the base."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from visprobe.attribution.figures.colours import scale_of
from visprobe.attribution.figures.sheet import Sheet, what_is_shown
from visprobe.attribution.figures.table import draw_table
from visprobe.attribution.map import Map
from visprobe.errors import UsageError
from visprobe.figures.labels import shorten
from visprobe.figures.text import short_number


def differences(sheet: Sheet) -> Sheet:
    """Return a sheet of signed maps and scores of every checkpoint minus those of the first, named "<name> − <base>".

    Raises:
        UsageError: If there is no second checkpoint, or two maps of an image have different grids.
    """
    (base, before), *others = sheet.maps.items()
    if not others:
        raise UsageError(f"{shorten(base)} has nothing to be compared with", hint="Name a second checkpoint.")
    made = {f"{name} − {base}": list(map(_minus, maps, before)) for name, maps in others}
    return replace(sheet, maps=made)


def draw(sheet: Sheet, width: float | None = None) -> Figure:
    """Draw each picture, then each checkpoint's map minus the base's, with the difference of the scores below.

    Args:
        sheet: Pictures as the tower saw them, with their differences (`differences`).
        width: Inches; one or two columns of a paper, by the number of columns, if None.
    """
    scale = scale_of((one for maps in sheet.shown.values() for one in maps), True)
    return draw_table(sheet, sheet.shown, [scale] * len(sheet.pictures), _signed, "Δ score:", width)


def caption(sheet: Sheet) -> str:
    """Return the caption of `draw(sheet)`."""
    return (
        f"Differences between the {sheet.method} maps of two checkpoints at {sheet.site}, after the picture as the "
        "tower sees it. Orange: the first named has the higher value there; blue: the second. For a map, positive "
        f"means that {sheet.meaning}. One square is one patch, not interpolated. One symmetric colour scale for the "
        f"figure, in {sheet.map_unit}; below each map the difference of the scores in {sheet.unit}. "
        f"{what_is_shown(sheet)}"
    )


def _minus(one: Map, base: Map) -> Map:
    if one.grid != base.grid:
        raise UsageError(
            f"maps of {base.grid} and {one.grid} patches have no difference",
            hint="Compare checkpoints that see an image at the same resolution.",
        )
    return replace(one, values=one.values - base.values, score=one.score - base.score)


def _signed(one: Map) -> str:
    return f"+{short_number(one.score)}" if one.score > 0 else short_number(one.score)
