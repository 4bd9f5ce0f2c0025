"""Figure of deletion and insertion curves of each checkpoint's maps, beside those of a random order."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from visprobe.attribution.evidence.faithful import CHANCE, WAYS
from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.legend import legend_below
from visprobe.figures.marks import add_tooltips, text
from visprobe.figures.style import ONE_COLUMN, SMALL, TWO_COLUMNS, CheckpointStyle, checkpoint_styles, paper_style
from visprobe.figures.text import fitted
from visprobe.results.result import Estimate, Result, Row

_SIZE = 1.35  # inches of a panel's height
_MOST_IN_ONE_COLUMN = 4


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw mean deletion curves (left) and insertion curves (right) with bands, dashed those of a random order.

    Args:
        result: A "faithfulness" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures.
        width: Inches; one or two columns of a paper, by the number of checkpoints, if None.
    """
    rows = [row for row in result.rows if row.role != "difference"]
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    look = checkpoint_styles(list(dict.fromkeys([*checkpoints, *names])))
    width = width or (ONE_COLUMN if len(names) <= _MOST_IN_ONE_COLUMN else TWO_COLUMNS)
    with paper_style():
        figure = Figure((width, _SIZE + 0.6), layout="constrained")
        for axes, way in zip(figure.subplots(1, 2, sharey=True), WAYS, strict=True):
            for name in names:
                opacity = 0.15 if len(names) <= _MOST_IN_ONE_COLUMN else 0.06
                _draw_way(axes, [row for row in rows if row.checkpoint == name], way, look[name], opacity)
            axes.set_title(way.capitalize())
            axes.set_xlabel(f"Patches {'deleted' if way == 'deletion' else 'inserted'}")
            axes.set_xticks([0, 0.5, 1])
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            axes.set_xlim(-0.02, 1.02)
            axes.grid(True)
        figure.axes[0].set_ylabel(fitted(f"Score, {rows[0].estimate.unit}", _SIZE * 72, SMALL))
        keys = [Line2D([], [], color=look[n].colour, marker=look[n].marker, label=n) for n in names]
        keys.append(Line2D([], [], color=look[names[0]].colour, linestyle="--", linewidth=0.8, label="random order"))
        legend_below(figure, keys)
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`."""
    rows = [row for row in result.rows if row.role != "difference"]
    gains = [row for row in rows if row.measure == "gain"]
    numbers = ", ".join(
        f"{shorten(row.checkpoint)} {row.estimate.value:.3g} [{row.estimate.low:.3g}, {row.estimate.high:.3g}]"
        for row in gains
    )
    return (
        f"Faithfulness of {shorten(rows[0].site, 48)} maps: mean score as patches are replaced by the baseline "
        f"({result.settings['baseline']}) from the map's highest value on (deletion: the faster down, the more "
        "faithful), and as they are put back into it in that order (insertion: the faster up, the more faithful). "
        "Dashed, in each checkpoint's colour: the same patches in random order. Gain, the area between insertion and "
        f"deletion (0 expected of a random order): {numbers}. Bands are pointwise. {rests_on(rows, 'images')}"
    )


def _draw_way(axes: Axes, rows: Sequence[Row], way: str, look: CheckpointStyle, opacity: float) -> None:
    own, chance = _line(rows, f"{way} at "), _line(rows, f"{way}{CHANCE} at ")
    x = [at for at, _ in own]
    low, high = [estimate.low for _, estimate in own], [estimate.high for _, estimate in own]
    axes.fill_between(x, low, high, color=look.colour, alpha=opacity, linewidth=0)
    every = max(1, len(x) // 5)
    axes.plot(x, [estimate.value for _, estimate in own], color=look.colour, marker=look.marker, markersize=2.6,
              markevery=every, markeredgecolor="white", markeredgewidth=0.3)  # fmt: skip
    name = rows[0].checkpoint
    add_tooltips(axes.lines[-1], (text(f"{name}, {way} of {at:.0%}", estimate) for at, estimate in own[::every]))
    values = [estimate.value for _, estimate in chance]
    axes.plot([at for at, _ in chance], values, color=look.colour, linestyle="--", linewidth=0.8)


def _line(rows: Sequence[Row], start: str) -> list[tuple[float, Estimate]]:
    own = [row for row in rows if row.measure.startswith(start)]
    return [(float(row.measure.removeprefix(start)), row.estimate) for row in own]
