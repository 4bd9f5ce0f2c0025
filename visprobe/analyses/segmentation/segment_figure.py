"""Figure of each class's IoU by checkpoint, and of images beside their masks and predictions."""

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

from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten, unique_short_labels
from visprobe.figures.legend import legend_columns
from visprobe.figures.marks import add_tooltips
from visprobe.figures.style import (
    MUTED,
    SHADE,
    TWO_COLUMNS,
    CheckpointStyle,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
)
from visprobe.figures.text import fitted
from visprobe.results.read_site import read_label
from visprobe.results.result import Result

_MOST_CLASSES = 25
_LINE = 0.19  # inches per class, at least
_MARKER = 0.065  # inches per checkpoint in it
_GOLDEN = 0.61803398875  # share of the circle of hues: neighbouring numbers get hues far apart
_SPREAD = 0.8  # share of a line over which checkpoints are spread
_PICTURE = 0.75  # inches per picture, at least
_TITLE = 0.16
_BOLD = 9.0  # an 8-point bold title is as wide as regular text of this size
_NOTHING = 255
_WHITE = 1.0

Colours = NDArray[np.float64]


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw IoU per class at the consumed site, frequent classes first; below, images and predictions.

    Args:
        result: A "segment" result, with settings["class_iou"], settings["class_pixels"] and settings["examples"].
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures; those of
            `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    pixels, names = result.settings.get("class_pixels", []), result.settings.get("class_names", [])
    shown = sorted((i for i, count in enumerate(pixels) if count), key=lambda i: -pixels[i])[:_MOST_CLASSES]
    made = result.settings.get("examples", [])
    look = checkpoint_styles(list(dict.fromkeys([*checkpoints, *checkpoints_of(result)])))
    found = list(dict.fromkeys(name for one in made for name in one["found"]))
    wide = width or TWO_COLUMNS
    across = min(2 + len(found), int(wide / _PICTURE))
    height = _heights(made, across, -(-(2 + len(found)) // across), wide)
    with paper_style():
        named = [shorten(name) for name in result.settings.get("class_iou", {})]
        legend = _TITLE * -(-len(named) // legend_columns(named, wide - 0.1)) if named else 0.0
        top = 0.75 + legend + max(_LINE, _MARKER * len(named)) * len(shown)
        figure = Figure((wide, top + sum(height) + (0.3 if made else 0)), layout="constrained")
        colours = _colours(len(names))
        above: Figure | SubFigure = figure
        if made:
            above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(top, sum(height) + 0.3))[:, 0]
            _draw_examples(below, made, found, (across, height), colours)
        _draw_classes(above.subplots(), result, [(i, names[i]) for i in shown], look, colours, wide)
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.role == "value"]
    return (
        f"Above: IoU of each class at {read_label(result)}, mean "
        "over seeds, frequent classes first; dashes: untrained tower. Below: the part of an image that the tower sees, "
        "its mask, and the class that the head of the first seed finds at every pixel, in the colours beside the class "
        f"names; white does not count. {rests_on(rows, 'images')}"
    )


def _heights(made: Sequence[Mapping[str, Any]], across: int, lines: int, width: float) -> list[float]:
    """Return the height in inches of each row of pictures, `lines` of them for each image."""
    each = width / across - 0.05
    sizes = [_opened(one["image"]).size for one in made]
    return [each * high / wide + (_TITLE if lines > 1 else 0.0) for wide, high in sizes for _ in range(lines)]


def _draw_classes(
    axes: Axes,
    result: Result,
    shown: Sequence[tuple[int, str]],
    look: Mapping[str, CheckpointStyle],
    colours: Colours,
    width: float,
) -> None:
    consumed, table = result.consumed, result.settings.get("class_iou", {})
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
        add_tooltips(axes.lines[-1], (f"{name}, {title}: IoU {100 * values[at]:.2f} %" for at, title in shown))
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
    legend = axes.get_legend_handles_labels()
    axes.legend(*legend, loc="lower right", bbox_to_anchor=(1, 1), ncols=legend_columns(legend[1], width - 0.1),
                frameon=False, borderpad=0, columnspacing=1.6)  # fmt: skip


def _draw_examples(
    place: SubFigure,
    made: Sequence[Mapping[str, Any]],
    found: Sequence[str],
    layout: tuple[int, Sequence[float]],
    colours: Colours,
) -> None:
    across, heights = layout
    lines = len(heights) // len(made)
    panels = place.subplots(len(heights), across, squeeze=False, height_ratios=heights)
    for axes in panels.flat:
        axes.set_axis_off()
    panels = panels.reshape(len(made), -1)
    for line, one in zip(panels, made, strict=True):
        pictures = [np.asarray(_opened(one["image"])), _painted(one["truth"], colours)]
        pictures += [_painted(one["found"][name], colours) for name in found]
        for axes, picture in zip(line, pictures, strict=False):
            axes.imshow(picture, interpolation="nearest")
            axes.set_facecolor(SHADE)
    points = 72 * (place.get_figure(root=True).get_figwidth() / across - 0.08)
    for line in panels if lines > 1 else panels[:1]:
        names = unique_short_labels(["image", "mask", *found], lambda name: fitted(name, points, _BOLD))
        for axes, title in zip(line, names, strict=False):
            axes.set_title(title)


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
    """Return a colour per class: matplotlib's twenty for few, hues far apart for many."""
    if classes <= 20:
        order = [*range(0, 20, 2), *range(1, 20, 2)]  # the ten strong colours before the ten pale ones
        return np.array([matplotlib.colormaps["tab20"](number)[:3] for number in order[:classes]]).reshape(-1, 3)
    number = np.arange(classes)
    hsv = np.stack([number * _GOLDEN % 1, 0.45 + 0.4 * (number % 2), 0.95 - 0.15 * (number % 3)], -1)
    return np.asarray(hsv_to_rgb(hsv))
