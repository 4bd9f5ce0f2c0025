"""Data of the page's gallery of maps: a picture at a time, with a slider over checkpoints or steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from visprobe.attribution.figures.colours import scale_of, shades
from visprobe.attribution.figures.sheet_json import sheet_of
from visprobe.data.image_set import PREFIX
from visprobe.errors import DataError
from visprobe.figures.labels import shorten
from visprobe.io.inert import escape_control_characters
from visprobe.report.presentations import presentation_of
from visprobe.results.result import Result

_SHADES = 64
_NAME, _TITLE = 40, 160  # characters


def map_gallery(result: Result) -> str | None:
    """Return the data of the gallery as ASCII JSON; None for a result without maps of several checkpoints or steps.

    Args:
        result: Any result; one whose presentation has a gallery holds its maps in settings["sheet"].

    Raises:
        DataError: If a picture is not a data URI.
    """
    if not presentation_of(result.analysis).has_gallery:
        return None
    value = result.settings["sheet"]
    names = [shorten(name, _NAME) for name in value["maps"]]
    if len(names) < 2:
        return None
    sheet = sheet_of(value)
    shown = {
        "names": names,
        "unit": escape_control_characters(sheet.unit),
        "mapUnit": escape_control_characters(sheet.map_unit),
        "shades": shades(_SHADES),
        "pictures": [_picture(value, row, _limit(sheet.maps, row)) for row in range(len(sheet.pictures))],
    }
    return json.dumps(shown, separators=(",", ":"))


def _limit(maps: Mapping[str, Any], row: int) -> float:
    """Return the upper end of the colour scale, shared by all checkpoints so that their maps compare."""
    return scale_of((every[row] for every in maps.values()), signed=False).limit


def _picture(value: Mapping[str, Any], row: int, limit: float) -> dict[str, Any]:
    source = value["pictures"][row]
    if not source.startswith(PREFIX):  # a page must load nothing from elsewhere
        raise DataError("a picture of the report is damaged", hint="Make the report again.")
    title = shorten(value["titles"][row], _TITLE)
    maps = [maps[row] for maps in value["maps"].values()]
    return {"title": title, "source": source, "limit": limit, "maps": maps}
