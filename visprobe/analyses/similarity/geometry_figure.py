"""Figure of ranks, dimension, uniformity and outlying tokens of each checkpoint at the read sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from visprobe.analyses.drift.identical_figure import note_identical
from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten, unique_short_labels
from visprobe.figures.marks import add_tooltips, text
from visprobe.figures.style import (
    INK,
    SMALL,
    TWO_COLUMNS,
    CheckpointStyle,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
    stacked,
)
from visprobe.figures.text import fitted
from visprobe.figures.ticks import round_below
from visprobe.results.read_site import read_note
from visprobe.results.result import Estimate, Result, Row

_TITLES = {
    "effective_rank": "Effective rank",
    "participation_ratio": "Particip. ratio",
    "rankme": "RankMe",
    "two_nn": "TwoNN dim.",
    "uniformity": "Uniformity",
    "high_norm": "Outlying tokens",
}
_ACROSS_NARROW = 2
_NAMES = 0.2  # share of the figure's width for names


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw a row of panels per site: paired differences to the base, with the base's value in the heading.

    Intervals of the values themselves are much wider than those of differences over the same images.

    Args:
        result: A "geometry" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    base = result.base
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    sites = list(dict.fromkeys(row.site for row in result.rows))
    names = list(dict.fromkeys(row.checkpoint for row in result.select(role="difference", reference=base)))
    with paper_style():
        wide = width or TWO_COLUMNS
        lines = len(_TITLES) // _ACROSS_NARROW if stacked(wide) else 1
        figure = Figure((wide, 0.4 + lines * len(sites) * (0.72 + 0.14 * len(names))), layout="constrained")
        panels = figure.subplots(len(sites) * lines, len(_TITLES) // lines, squeeze=False)
        lefts = panels[:, 0]
        for row, site in zip(panels.reshape(len(sites), len(_TITLES)), sites, strict=True):
            for panel, measure in zip(row, _TITLES, strict=True):
                own = result.select(measure=measure, site=site, checkpoint=base, role="value")
                pairs = result.select(measure=measure, site=site, role="difference", reference=base)
                panel.set_visible(bool(own))
                if own:
                    differences = {pair.checkpoint: pair.estimate for pair in pairs}
                    _draw_panel(panel, differences, names, look, 72 * _NAMES * wide)
                    panel.set_title(f"{_TITLES[measure]}\nbase: {_value(own[0])}", size=SMALL, weight="normal")
                    panel.tick_params(labelleft=panel in lefts)
            row[0].set_ylabel(_site(site, result), weight="bold", labelpad=6)
        note_identical(figure, result.identical)
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.role == "difference" and row.reference == result.base]
    return (
        "Geometry of each representation: paired difference of every checkpoint to the base, whose own value stands "
        "at 0 (an interval that contains 0 is no measured difference). Lower uniformity is more evenly spread. "
        f"{rests_on(rows, 'images')}"
    )


def _value(row: Row) -> str:
    """Format the value of `row` in three digits."""
    value = row.estimate.value
    return f"{100 * value:.3g} %" if row.estimate.unit == "fraction" else f"{value:.3g}".replace("-", "−")


def _site(site: str, result: Result) -> str:
    return f"{shorten(site)}\n({read_note(result)})" if site == result.consumed else shorten(site)


def _draw_panel(
    axes: Axes,
    differences: Mapping[str, Estimate],
    names: Sequence[str],
    look: Mapping[str, CheckpointStyle],
    points: float,
) -> None:
    fraction = any(e.unit == "fraction" for e in differences.values())
    for y, name in enumerate(names):
        if name in differences:
            e = differences[name]
            colour, marker = look[name]
            axes.plot([e.low, e.high], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
            axes.plot([e.value], [y], color=colour, marker=marker, markersize=4, markeredgecolor="white",
                      markeredgewidth=0.4)  # fmt: skip
            add_tooltips(axes.lines[-1], [text(f"{name}, difference to the base", e, difference=True)])
    axes.axvline(0, color=INK, linewidth=0.7)
    reach = max((max(abs(e.low), abs(e.high)) for e in differences.values()), default=0.0) * 1.15 or 0.01
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(FixedLocator([0.0, round_below(reach)]))
    # The axis is symmetric: numbers on both sides would run into those of the next panel.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "" if x < 0 else _tick(100 * x if fraction else x)))
    axes.set_yticks(range(len(names)), labels=unique_short_labels(names, lambda name: fitted(name, points, SMALL)))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    if fraction:
        axes.set_xlabel("percentage points", size=SMALL, labelpad=1)


def _tick(value: float) -> str:
    return f"{value:+.3g}" if value else "0"
