"""Figure: deletion and insertion curves of each checkpoint's maps, beside those of a random order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from visprobe.analyses.result import Estimate, Row
from visprobe.attribution.faithfulness import Curves
from visprobe.errors import DataError
from visprobe.figures.attribution_text import fitted
from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.style import ONE_COLUMN, TWO_COLUMNS, Look, looks, paper_style
from visprobe.metrics.clustered import clustered_mean

_WAYS = ("deletion", "insertion")
_CHANCE = ", random order"
_SIZE = 1.35  # inches of a panel's height
_LEGEND_LINE = 0.14
_MOST_IN_ONE_COLUMN = 4
_SHORT = 8  # characters of names of which four stand side by side in one column


def curve_rows(
    curves: Mapping[str, Sequence[Curves]], images: Sequence[str], method: str, site: str, unit: str
) -> list[Row]:
    """Mean curves over images, in units of the score: no image is left out, and none counts more than another.

    Args:
        curves: Name of each checkpoint, the base first, to the curves of each image.
        images: Name of the image of each; several questions about one image repeat it, and go together.
        method: Method of the maps.
        site: Site of the maps.
        unit: Unit of the score.

    Returns:
        Rows with the measures "deletion at 0.25", "insertion at 0.25" and "gain", the area between the two; those of
        a random order have the role "floor". Intervals are pointwise.

    Raises:
        DataError: If curves and images do not fit, or curves have different numbers of points.
    """
    clusters = np.unique(np.asarray(images), return_inverse=True)[1]
    rows = list[Row]()
    for name, every in curves.items():
        if len(every) != len(images) or len({len(one.fractions) for one in every}) != 1:
            raise DataError(
                f"{name}: {len(every)} curves of {len(images)} images, of "
                f"{sorted({len(one.fractions) for one in every})} points",
                hint="Make those of all images at once, with the same steps.",
            )
        rows += _rows(name, f"{method}@{site}", every, clusters, unit)
    return rows


def draw(rows: Sequence[Row], checkpoints: Sequence[str] = ()) -> Figure:
    """Deletion on the left, insertion on the right: mean curves with bands, dashed those of a random order.

    Args:
        rows: What `curve_rows` made.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures.
    """
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    look = looks(list(dict.fromkeys([*checkpoints, *names])))
    width = ONE_COLUMN if len(names) <= _MOST_IN_ONE_COLUMN else TWO_COLUMNS
    fitting = 4 if max(map(len, map(shorten, names))) <= _SHORT else 2
    columns = fitting if width == ONE_COLUMN else fitting + 1
    lines = math.ceil((len(names) + 1) / columns)
    with paper_style():
        figure = Figure((width, _SIZE + 0.6 + _LEGEND_LINE * lines), layout="constrained")
        for axes, way in zip(figure.subplots(1, 2, sharey=True), _WAYS, strict=True):
            for name in names:
                opacity = 0.15 if width == ONE_COLUMN else 0.06
                _draw_way(axes, [row for row in rows if row.checkpoint == name], way, look[name], opacity)
            axes.set_title(way.capitalize())
            axes.set_xlabel(f"Patches {'deleted' if way == 'deletion' else 'inserted'}")
            axes.set_xticks([0, 0.5, 1])
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            axes.set_xlim(-0.02, 1.02)
            axes.grid(True)
        figure.axes[0].set_ylabel(fitted(f"Score, {rows[0].estimate.unit}", _SIZE * 72, 7.0))
        keys = [Line2D([], [], color=look[n].colour, marker=look[n].marker, label=shorten(n)) for n in names]
        keys.append(Line2D([], [], color=look[names[0]].colour, linestyle="--", linewidth=0.8, label="random order"))
        figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def caption(rows: Sequence[Row], baseline: str) -> str:
    """The caption of `draw(rows)`.

    Args:
        rows: What `curve_rows` made.
        baseline: What replaces a patch.
    """
    gains = [row for row in rows if row.measure == "gain"]
    numbers = ", ".join(
        f"{shorten(row.checkpoint)} {row.estimate.value:.3g} [{row.estimate.low:.3g}, {row.estimate.high:.3g}]"
        for row in gains
    )
    return (
        f"Faithfulness of {shorten(rows[0].site, 48)} maps: mean score as patches are replaced by the baseline "
        f"({baseline}) from the map's highest value on (deletion: the faster down, the more faithful), and as they are "
        "put back into it in that order (insertion: the faster up, the more faithful). Dashed, in each checkpoint's "
        f"colour: the same patches in random order. Gain, the area between insertion and deletion (0 expected of a "
        f"random order): {numbers}. Bands are pointwise. {rests_on(rows, 'images')}"
    )


def _rows(name: str, site: str, curves: Sequence[Curves], clusters: NDArray[np.int64], unit: str) -> Iterator[Row]:
    fractions = np.mean([one.fractions for one in curves], axis=0)
    for way in _WAYS:
        # Deleting in random order leaves what inserting the others has made: one random order controls both.
        chance = [one.random if way == "deletion" else one.random[::-1] for one in curves]
        own = [one.deletion if way == "deletion" else one.insertion for one in curves]
        for at, scores, by_chance in zip(fractions, np.transpose(own), np.transpose(chance), strict=True):
            yield Row(name, site, f"{way} at {at:.4g}", _mean(scores, clusters, unit))
            yield Row(name, site, f"{way}{_CHANCE} at {at:.4g}", _mean(by_chance, clusters, unit), role="floor")
    yield Row(name, site, "gain", _mean(np.array([one.gain for one in curves]), clusters, unit))


def _mean(values: NDArray[np.float64], clusters: NDArray[np.int64], unit: str) -> Estimate:
    if clusters.max() == 0:
        value = float(values.mean())
        return Estimate(value, value, value, 1, unit, "one image, no interval")
    found = clustered_mean(values, clusters, bounds=(-math.inf, math.inf))
    return Estimate(found.value, found.low, found.high, found.clusters, unit, "t over images 95 %")


def _draw_way(axes: Axes, rows: Sequence[Row], way: str, look: Look, opacity: float) -> None:
    own, chance = _line(rows, f"{way} at "), _line(rows, f"{way}{_CHANCE} at ")
    x = [at for at, _ in own]
    low, high = [estimate.low for _, estimate in own], [estimate.high for _, estimate in own]
    axes.fill_between(x, low, high, color=look.colour, alpha=opacity, linewidth=0)
    axes.plot(x, [estimate.value for _, estimate in own], color=look.colour, marker=look.marker, markersize=2.6,
              markevery=max(1, len(x) // 5), markeredgecolor="white", markeredgewidth=0.3)  # fmt: skip
    values = [estimate.value for _, estimate in chance]
    axes.plot([at for at, _ in chance], values, color=look.colour, linestyle="--", linewidth=0.8)


def _line(rows: Sequence[Row], start: str) -> list[tuple[float, Estimate]]:
    own = [row for row in rows if row.measure.startswith(start)]
    return [(float(row.measure.removeprefix(start)), row.estimate) for row in own]
