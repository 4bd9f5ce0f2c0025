"""Figure of one image with the nearest word of the language model to each of its patches."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.style import INK, MUTED, RULE, SHADE, SMALL, TWO_COLUMNS, checkpoints_of, paper_style, stacked
from visprobe.figures.text import fitted
from visprobe.results.result import Result

_MOST_CELLS = 8  # along a side; more words are illegible
_MOST_PANELS = 3
_GRID_INCHES = 1.6


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the image, and a grid of nearest words for the base and the checkpoints after it, three at most.

    Words that are not those of the base are on a darker ground. Of fine grids only some patches are shown.

    Args:
        result: A "words" result.
        checkpoints: All checkpoints of the report, base first; those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    picture = result.settings["picture"]
    names = [name for name in dict.fromkeys([*checkpoints, *checkpoints_of(result)]) if name in picture["words"]]
    shown, comparable = names[:_MOST_PANELS], {row.checkpoint for row in result.select(measure="word_changed")}
    with paper_style():
        wide, count = width or TWO_COLUMNS, 1 + len(shown)
        across = 1 if stacked(wide) else 2
        down = -(-count // across)
        figure = Figure((wide, _GRID_INCHES * down), layout="constrained")
        first, *panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        _draw_image(first, picture.get("source"))
        points = 72 * (wide / across - 0.2)
        for axes, name in zip(panels, shown, strict=False):
            base = picture["words"][shown[0]] if name in comparable else picture["words"][name]
            _draw_words(axes, name, picture["words"][name], base, picture["grid"], points)
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    picture = result.settings["picture"]
    grid = picture["grid"]
    which = (
        "each patch token" if not picture.get("drawn") else "some of its patch tokens, drawn at random and in order,"
    )
    some = "; of its patches every so many are shown" if max(grid) > _MOST_CELLS else ""
    rows = [row for row in result.rows if row.role == "value"]
    return (
        f"An image and, for {which} after the projector, the word of largest cosine{some}. Grey ground: "
        "another word than under the base. One image shows what words look like, not how checkpoints differ: for "
        f"that, read the tables. {rests_on(rows, 'images')}"
    )


def _draw_image(axes: Axes, source: str | None) -> None:
    axes.set_axis_off()
    if source:
        axes.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))))
    else:
        axes.annotate("no picture", (0.5, 0.5), xycoords="axes fraction", ha="center", color=MUTED)


def _draw_words(
    axes: Axes, name: str, words: Sequence[str], base: Sequence[str], grid: Sequence[int], points: float
) -> None:
    rows, columns = (_spread(side) for side in grid)
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            place = row * grid[1] + column
            changed = words[place] != base[place]
            axes.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], facecolor=RULE if changed else SHADE,
                      edgecolor="white", linewidth=0.6)  # fmt: skip
            word = fitted(words[place], points / len(columns) - 2, SMALL)
            axes.annotate(word, (x + 0.5, y + 0.5), ha="center", va="center", size=SMALL,
                          color=INK)  # fmt: skip
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0), xticks=[], yticks=[], title=shorten(name))
    for spine in axes.spines.values():
        spine.set_visible(False)


def _spread(side: int) -> list[int]:
    cells = min(side, _MOST_CELLS)
    return [(2 * cell + 1) * side // (2 * cells) for cell in range(cells)]
