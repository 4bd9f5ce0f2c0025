"""What makes a printed figure illegible: texts that cover each other, leave the page or are too small."""

from __future__ import annotations

import itertools
import warnings

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from visprobe.figures.style import paper_style


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other, and texts that leave the figure."""
    with paper_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        canvas = FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        texts = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in shown_texts(figure)]
    wide, high = canvas.get_width_height()
    boxes = [(text, *box.extents) for text, box in texts]
    outside = [(t, "edge") for t, x0, y0, x1, y1 in boxes if min(x0, y0) < -1 or x1 > wide + 1 or y1 > high + 1]
    # Text boxes include the room of letters that reach below the line: a pixel of it may be shared.
    both = [
        (one, other)
        for (one, ax0, ay0, ax1, ay1), (other, bx0, by0, bx1, by1) in itertools.combinations(boxes, 2)
        if min(ax1, bx1) - max(ax0, bx0) > 1 and min(ay1, by1) - max(ay0, by0) > 2
    ]
    return outside + both


def shown_texts(figure: Figure) -> list[Text]:
    """Texts that are drawn: not those of hidden axes, nor labels of ticks beyond the ends of an axis."""
    ticks = [(axis, t) for a in figure.findobj(Axes) for axis in (a.xaxis, a.yaxis) for t in axis.get_major_ticks()]
    beyond = {label for axis, t in ticks for label in (t.label1, t.label2)
              if not min(axis.get_view_interval()) <= t.get_loc() <= max(axis.get_view_interval())}  # fmt: skip
    hidden = {t for a in figure.findobj(Axes) if not (a.get_visible() and a.axison) for t in _of_axis(a)}
    hidden |= {t for a in figure.findobj(Axes) if not a.get_visible() for t in a.findobj(Text)}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [t for t in texts if t not in beyond | hidden]


def _of_axis(axes: object) -> list[Text]:
    return [t for axis in (axes.xaxis, axes.yaxis) for t in axis.findobj(Text)]  # type: ignore[attr-defined]
