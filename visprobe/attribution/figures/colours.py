"""Colours of maps over pictures, and their colour bars."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visprobe.attribution.map import Map

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

_SIDE = 240  # pixels of a painted picture's longer side, or a little more: 300 dots per inch at 0.8 inches
_DARKEST, _LIGHTEST = 0.28, 0.88  # greys of the picture below a map: black and white would hide the colours
_MIDDLE = (_DARKEST + _LIGHTEST) / 2
_OPAQUE = 0.82  # opacity at the end of a scale; it falls towards 0, so that the picture shows there
_FOR, _AGAINST = (0.98, 0.46, 0.0), (0.0, 0.42, 0.85)  # orange and blue, told apart by all readers


@dataclass(frozen=True)
class Scale:
    """A colour scale.

    Attributes:
        limit: Value of the strongest colour, 0 if all values are 0.
        signed: True if the scale begins at -`limit`, else it begins at 0; values below are drawn as the lower end.
    """

    limit: float
    signed: bool

    @property
    def low(self) -> float:
        """Lower end of the scale."""
        return -self.limit if self.signed else 0.0


def scale_of(maps: Iterable[Map], signed: bool) -> Scale:
    """Return the scale that covers all values of `maps` (all positive ones if not `signed`); its end has two digits."""
    every = [one.values.abs() if signed else one.values for one in maps]
    highest = max([0.0, *(float(values.max()) for values in every)])
    if not highest:
        return Scale(0.0, signed)
    step = 10.0 ** (math.floor(math.log10(highest)) - 1)
    return Scale(math.ceil(highest / step * (1 - 1e-9)) * step, signed)  # 1e-9: 0.19 is 19.000000000000004 x 0.01


def painted(picture: Image.Image, one: Map, scale: Scale) -> Bytes:
    """Paint a map over its picture in grey; every patch is one rectangle, nothing is interpolated.

    Returns:
        uint8 RGB of shape (rows of patches x k, columns of patches x l, 3).
    """
    values = one.values.double().numpy()
    rows, columns = values.shape
    scaled = _SIDE / max(picture.size)
    across, down = (max(1, round(side * scaled / n)) for side, n in zip(picture.size, (columns, rows), strict=True))
    grey = picture.convert("L").resize((columns * across, rows * down), Image.Resampling.BICUBIC)
    below = _DARKEST + (_LIGHTEST - _DARKEST) * np.asarray(grey, np.float64) / 255
    return _blended(below, values.repeat(down, axis=0).repeat(across, axis=1), scale)


def bar(scale: Scale) -> Bytes:
    """Return the colours of `scale` as a column, uint8 RGB, the highest value on top, over a middle grey."""
    values = np.linspace(scale.limit, scale.low, 128)[:, None]
    return _blended(np.full_like(values, _MIDDLE), values, scale)


def shades(count: int) -> list[str]:
    """Return `count` CSS colours from 0 to the end of an unsigned scale, to be laid over a picture in grey."""
    colours, opacity = _positive(np.linspace(0.0, 1.0, count))
    return [
        f"rgba({', '.join(str(round(255 * part)) for part in colour)}, {round(one, 3)})"
        for colour, one in zip(colours.tolist(), opacity.tolist(), strict=True)
    ]


def _positive(share: Floats) -> tuple[Floats, Floats]:
    """Return colour and opacity of shares of an unsigned scale; the exponent keeps small values visible."""
    return matplotlib.colormaps["plasma"](share)[..., :3], _OPAQUE * share**0.6


def _blended(grey: Floats, values: Floats, scale: Scale) -> Bytes:
    share = np.clip(values / (scale.limit or 1.0), -1.0 if scale.signed else 0.0, 1.0)
    if scale.signed:
        colours, opacity = np.where(share[..., None] > 0, _FOR, _AGAINST), _OPAQUE * np.abs(share)
    else:
        colours, opacity = _positive(share)
    return np.round(255 * (colours * opacity[..., None] + (grey * (1 - opacity))[..., None])).astype(np.uint8)
