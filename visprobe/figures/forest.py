"""Forest plots: shares with intervals, one row per checkpoint, and paired differences to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from visprobe.figures.labels import shorten, unique_short_labels
from visprobe.figures.marks import add_tooltips, text
from visprobe.figures.style import INK, MUTED, ONE_COLUMN, SMALL, TWO_COLUMNS, CheckpointStyle, paper_style, stacked
from visprobe.results.result import Estimate, Row

_ROW_INCHES = 0.17
_FRAME_INCHES = 0.66
_NAME = 0.25  # share of the axis: about the width of a baseline's name
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


@dataclass
class Section:
    """Block of rows of a forest plot: a site or a question group.

    Attributes:
        title: Heading of the block.
        values: Share of each checkpoint, by name.
        baselines: Share of each baseline, by name.
        differences: Paired difference from the base of each checkpoint, by name.
    """

    title: str
    values: dict[str, Estimate] = field(default_factory=dict)
    baselines: dict[str, Estimate] = field(default_factory=dict)
    differences: dict[str, Estimate] = field(default_factory=dict)


def sections(rows: Sequence[Row], keys: Sequence[str], titles: Sequence[str], base: str) -> list[Section]:
    """Sort `rows` into sections: `rows[i]` goes to the section of title `keys[i]`.

    Args:
        rows: Values, baselines and differences of one measure.
        keys: One key per row, a site or a question group.
        titles: Keys to keep, in order.
        base: Only differences against this checkpoint are kept.
    """
    found = {title: Section(title) for title in titles}
    for row, key in zip(rows, keys, strict=True):
        if key not in found or (row.role == "difference" and row.reference != base):
            continue
        section = found[key]
        kind = {"value": section.values, "baseline": section.baselines, "difference": section.differences}[row.role]
        kind[row.checkpoint] = row.estimate
    return [section for section in found.values() if section.values]


def draw_forest(
    parts: Sequence[Section],
    look: Mapping[str, CheckpointStyle],
    label: str,
    chance: float | None = None,
    width: float | None = None,
) -> Figure:
    """Draw shares on the left, and paired differences, if any, on the right; below, on a narrow figure.

    Args:
        parts: Blocks of rows, from top to bottom.
        look: Colour and marker per checkpoint.
        label: Label of the left axis.
        chance: Share that guessing gets, drawn as a dotted line.
        width: Inches; two columns of a paper if None, or one where there are no differences.
    """
    paired = any(part.differences for part in parts)
    lines = sum(len(part.values) + 1.6 for part in parts)
    wide = width or (TWO_COLUMNS if paired else ONE_COLUMN)
    down, across = (1 + paired, 1) if stacked(wide) else (1, 1 + paired)
    with paper_style():
        figure = Figure((wide, down * (_FRAME_INCHES + _ROW_INCHES * lines)), layout="constrained")
        panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        _draw_names(panels[0], parts)
        for axes in panels[:down]:
            _draw_titles(axes, parts)
        _draw_shares(panels[0], parts, look, label, chance)
        if paired:
            _draw_differences(panels[1], parts, look)
        panels[0].set_ylim(lines - (0.3 if any(part.baselines for part in parts) else 0.6), -0.8)
    return figure


def _places(parts: Sequence[Section]) -> list[dict[str, float]]:
    """Return the y position of every row, counted downwards, by section and checkpoint."""
    places, y = [], 0.0
    for part in parts:
        places.append({name: y + 1 + i for i, name in enumerate(part.values)})
        y += len(part.values) + 1.6
    return places


def _draw_names(axes: Axes, parts: Sequence[Section]) -> None:
    places = _places(parts)
    names = list(dict.fromkeys(name for place in places for name in place))
    short = dict(zip(names, unique_short_labels(names), strict=True))
    axes.set_yticks(
        [y for place in places for y in place.values()], labels=[short[name] for place in places for name in place]
    )
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_titles(axes: Axes, parts: Sequence[Section]) -> None:
    """Write headings from the left end of the figure: in one column they are wider than the panel."""
    for part, place in zip(parts, _places(parts), strict=True):
        title = axes.annotate(
            shorten(part.title, 40), (0.015, min(place.values()) - 1), xycoords=("figure fraction", "data"),
            va="center", weight="bold", color=INK, bbox=_ON_WHITE,
        )  # fmt: skip
        title.set_in_layout(False)


def _draw_shares(
    axes: Axes, parts: Sequence[Section], look: Mapping[str, CheckpointStyle], label: str, chance: float | None
) -> None:
    highest = max(e.high for part in parts for e in (*part.values.values(), *part.baselines.values()))
    for part, place in zip(parts, _places(parts), strict=True):
        span = min(place.values()) - 0.45, max(place.values()) + 0.45
        sides = _sides([baseline.value / highest for baseline in part.baselines.values()])
        for (name, baseline), side in zip(part.baselines.items(), sides, strict=True):
            axes.plot([baseline.value] * 2, span, color=MUTED, linestyle="--", linewidth=0.9)
            add_tooltips(axes.lines[-1], [text(f"{name}, {part.title}", baseline)])
            axes.annotate(
                shorten(name),
                (baseline.value, span[1] + 0.05),
                va="top",
                ha=side,
                size=SMALL,
                color=MUTED,
                bbox=_ON_WHITE,
            )
        for name, estimate in part.values.items():
            _draw_interval(axes, estimate, place[name], look[name])
            add_tooltips(axes.lines[-1], [text(f"{name}, {part.title}", estimate)])
    axes.set_xlim(0, min(highest * 1.08, 1.005))
    if chance is not None:
        axes.axvline(chance, color=MUTED, linestyle=":", linewidth=0.9)
        axes.annotate(
            "chance", (chance, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", size=SMALL, color=MUTED
        )
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.set_xlabel(label, loc="right")


def _sides(places: Sequence[float]) -> list[Literal["left", "center", "right"]]:
    """Align names at `places` in [0, 1]: off the edge, and away from a neighbour that they would meet."""
    found: list[Literal["left", "center", "right"]] = []
    for place in places:
        nearest = min((other - place for other in places if other != place), key=abs, default=1.0)
        apart = abs(nearest) > _NAME
        found.append("center" if apart and place > _NAME / 2 else "right" if not apart and nearest > 0 else "left")
    return found


def _draw_differences(axes: Axes, parts: Sequence[Section], look: Mapping[str, CheckpointStyle]) -> None:
    for part, place in zip(parts, _places(parts), strict=True):
        for name, estimate in part.differences.items():
            if name in place:
                _draw_interval(axes, estimate, place[name], look[name])
                add_tooltips(
                    axes.lines[-1], [text(f"{name}, {part.title}, difference to the base", estimate, difference=True)]
                )
    axes.axvline(0, color=INK, linewidth=0.7)
    low, high = axes.get_xlim()
    reach = max(abs(low), abs(high))
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:+.3g}".replace("-", "−") if x else "0"))
    axes.xaxis.set_major_locator(MaxNLocator(6, symmetric=True, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("Paired difference to the base, points", loc="right")


def _draw_interval(axes: Axes, estimate: Estimate, y: float, look: CheckpointStyle) -> None:
    axes.plot([estimate.low, estimate.high], [y, y], color=look.colour, linewidth=1.3, solid_capstyle="butt")
    axes.plot(
        [estimate.value], [y], color=look.colour, marker=look.marker, markersize=4.2, markeredgecolor="white",
        markeredgewidth=0.5,
    )  # fmt: skip
