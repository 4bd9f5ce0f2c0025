"""Figure: IoU of each class by checkpoint, and images beside their masks and what was found in them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from PIL import Image

from visprobe.analyses.result import Result
from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.style import MUTED, SHADE, TWO_COLUMNS, Look, checkpoints_of, looks, paper_style

_MOST_CLASSES = 25
_LINE = 0.19  # inches of a class, at least
_MARKER = 0.065  # of each checkpoint in it
_GOLDEN = 0.61803398875  # of the circle of hues: neighbouring numbers get hues far apart
_ACROSS = 5  # names in a line of the legend
_SPREAD = 0.8  # of a line, over which checkpoints lie one below the other
_NOTHING = 255
_WHITE = 1.0

Colours = NDArray[np.float64]


def draw(result: Result, checkpoints: Sequence[str] = ()) -> Figure:
    """IoU per class where the language model reads, frequent classes first; below, images and what was found.

    Args:
        result: A "segment" result, with settings["class_iou"], settings["class_pixels"] and settings["examples"].
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures; those of
            `result` if empty.
    """
    pixels, names = result.settings.get("class_pixels", []), result.settings.get("class_names", [])
    shown = sorted((i for i, count in enumerate(pixels) if count), key=lambda i: -pixels[i])[:_MOST_CLASSES]
    made = result.settings.get("examples", [])
    look = looks(list(dict.fromkeys([*checkpoints, *checkpoints_of(result)])))
    found = list(dict.fromkeys(name for one in made for name in one["found"]))
    height = _heights(made, 2 + len(found))
    with paper_style():
        top = 0.95 + max(_LINE, _MARKER * len(result.settings.get("class_iou", {}))) * len(shown)
        figure = Figure((TWO_COLUMNS, top + sum(height) + (0.3 if made else 0)), layout="constrained")
        colours = _colours(len(names))
        above: Figure | SubFigure = figure
        if made:
            above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(top, sum(height) + 0.3))[:, 0]
            _draw_examples(below, made, found, height, colours)
        _draw_classes(above.subplots(), result, [(i, names[i]) for i in shown], look, colours)
    return figure


def caption(result: Result) -> str:
    """The caption of `draw(result)`."""
    rows = [row for row in result.rows if row.role == "value"]
    return (
        f"Above: IoU of each class at {result.settings.get('consumed', 'the consumed site')} (read by the LLM), mean "
        "over seeds, frequent classes first; dashes: untrained tower. Below: the part of an image that the tower sees, "
        "its mask, and the class that the head of the first seed finds at every pixel, in the colours beside the class "
        f"names; white does not count. {rests_on(rows, 'images')}"
    )


def _heights(made: Sequence[Mapping[str, Any]], across: int) -> list[float]:
    """Height in inches of each row of pictures."""
    width = TWO_COLUMNS / across - 0.05
    sizes = [_opened(one["image"]).size for one in made]
    return [width * height / width_of for width_of, height in sizes]


def _draw_classes(
    axes: Axes, result: Result, shown: Sequence[tuple[int, str]], look: Mapping[str, Look], colours: Colours
) -> None:
    consumed, table = result.settings.get("consumed"), result.settings.get("class_iou", {})
    for place, (name, sites) in enumerate(table.items()):
        aside = _SPREAD * ((place + 0.5) / len(table) - 0.5)
        values = sites.get(consumed)
        if values is None:
            continue
        iou = [values[number] for number, _ in shown]
        if name in look:
            colour, marker = look[name]
            style: dict[str, Any] = {"marker": marker, "color": colour, "markeredgecolor": "white"}
        else:
            style = {"marker": "|", "color": MUTED, "markersize": 6.0}
        axes.plot(
            iou, np.arange(len(shown)) + aside, linestyle="none", label=shorten(name), clip_on=False, zorder=3, **style
        )
    axes.set_yticks(range(len(shown)), labels=[shorten(name, 22) for _, name in shown])
    axes.tick_params(axis="y", length=0, pad=12)
    for y, (number, _) in enumerate(shown):
        axes.plot(-0.012, y, marker="s", markersize=6, color=colours[number], clip_on=False,
                  transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(True)
    axes.set_xlabel("IoU of the class")
    if table:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=_ACROSS, frameon=False, borderpad=0)


def _draw_examples(
    place: SubFigure,
    made: Sequence[Mapping[str, Any]],
    found: Sequence[str],
    heights: Sequence[float],
    colours: Colours,
) -> None:
    panels = place.subplots(len(made), 2 + len(found), squeeze=False, height_ratios=heights)
    for line, one in zip(panels, made, strict=True):
        pictures = [np.asarray(_opened(one["image"])), _painted(one["truth"], colours)]
        pictures += [_painted(one["found"][name], colours) for name in found]
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            axes.set_facecolor(SHADE)
    for axes, title in zip(panels[0], ["image", "mask", *found], strict=True):
        axes.set_title(shorten(title, 18))


def _opened(text: str) -> Image.Image:
    with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        opened.load()
        return opened.copy()


def _painted(text: str, colours: Colours) -> NDArray[np.float64]:
    classes = np.asarray(_opened(text))
    padded = np.full((_NOTHING + 1, 3), _WHITE)
    padded[: min(len(colours), _NOTHING)] = colours[:_NOTHING]
    painted: NDArray[np.float64] = padded[classes]
    return painted


def _colours(classes: int) -> Colours:
    """A colour per class: matplotlib's twenty for few, hues far apart for many."""
    if classes <= 20:
        order = [*range(0, 20, 2), *range(1, 20, 2)]  # the ten strong colours before the ten pale ones
        return np.array([matplotlib.colormaps["tab20"](number)[:3] for number in order[:classes]]).reshape(-1, 3)
    number = np.arange(classes)
    hsv = np.stack([number * _GOLDEN % 1, 0.45 + 0.4 * (number % 2), 0.95 - 0.15 * (number % 3)], -1)
    return np.asarray(hsv_to_rgb(hsv))
