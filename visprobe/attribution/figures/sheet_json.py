"""Conversion of sheets to plain JSON and back, so that a report can be redrawn from its file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image

from visprobe.attribution.figures.sheet import Sheet
from visprobe.attribution.map import Map
from visprobe.data.image_set import PREFIX
from visprobe.errors import DataError

SIDE = 224  # pixels of the longer side of a picture
_DIGITS = 5  # of each value: more than a colour shows


def sheet_json(sheet: Sheet) -> dict[str, Any]:
    """Convert a sheet to plain JSON: small JPEG pictures, values to five digits."""
    return {
        "method": sheet.method,
        "site": sheet.site,
        "unit": sheet.unit,
        "first": sheet.first,
        "total": sheet.total or len(sheet.pictures),
        "titles": list(sheet.titles),
        "pictures": [_encoded(picture) for picture in sheet.pictures],
        "maps": {name: [_map_json(one) for one in maps] for name, maps in sheet.maps.items()},
    }


def sheet_of(value: Mapping[str, Any]) -> Sheet:
    """Convert the JSON of `sheet_json` back to a sheet.

    Raises:
        DataError: If a picture cannot be decoded.
    """
    kind = value["method"], value["site"]
    maps = {
        name: [Map(torch.tensor(one["values"], dtype=torch.float32), one["score"], *kind) for one in some]
        for name, some in value["maps"].items()
    }
    pictures = [_decoded(picture) for picture in value["pictures"]]
    return Sheet(pictures, value["titles"], maps, value["unit"], value["first"], value["total"])


def _map_json(one: Map) -> dict[str, Any]:
    values = [[float(f"{number:.{_DIGITS}g}") for number in row] for row in one.values.tolist()]
    return {"score": one.score, "values": values}


def _encoded(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=88)
    return PREFIX + base64.b64encode(data.getvalue()).decode()


def _decoded(text: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(base64.b64decode(text.removeprefix(PREFIX), validate=True)), formats=["JPEG"])
    except (ValueError, OSError) as error:
        raise DataError("a picture of the report is damaged", hint="Make the report again.") from error
