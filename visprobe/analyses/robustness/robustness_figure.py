"""Figure of each checkpoint's accuracy as images are damaged more, one panel per kind of damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, PercentFormatter

from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.legend import legend_below
from visprobe.figures.marks import add_tooltips, text
from visprobe.figures.style import (
    MUTED,
    SMALL,
    TWO_COLUMNS,
    CheckpointStyle,
    checkpoint_styles,
    checkpoints_of,
    paper_style,
    stacked,
)
from visprobe.results.read_site import read_note
from visprobe.results.result import Estimate, Result

_ACROSS = 6
_PANEL_INCHES = 1.25
_FRAME_INCHES = 0.75

Point = Mapping[str, Any]


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw curves over the levels of each kind of change, with bands; consumed site first, then projected.

    Args:
        result: A "robustness" result, with settings["curves"].
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    points: list[Point] = result.settings.get("curves", [])
    kinds = [kind for kind in dict.fromkeys(point["kind"] for point in points) if kind != "clean"]
    sites = list(dict.fromkeys(point["site"] for point in points))
    most = _ACROSS // 2 if stacked(width or TWO_COLUMNS) else _ACROSS
    down = max(1, -(-len(kinds) // most))
    across = max(1, -(-len(kinds) // down))
    with paper_style():
        height = _FRAME_INCHES + _PANEL_INCHES * down * max(1, len(sites))
        figure = Figure((width or TWO_COLUMNS, height), layout="constrained")
        blocks = figure.add_gridspec(max(1, len(sites)), 1)
        for number, site in enumerate(sites):
            own = [point for point in points if point["site"] == site]
            panels = blocks[number].subgridspec(down, across).subplots(sharey=True, squeeze=False)
            for panel in panels.flat[len(kinds) :]:
                panel.set_visible(False)
            for kind, panel in zip(kinds, panels.flat, strict=False):
                _draw_panel(panel, [point for point in own if point["kind"] in (kind, "clean")], kind, look, result)
            for row in panels:
                row[0].set_ylabel(_site_title(site, result))
        shown = [name for name in look if any(point["checkpoint"] == name for point in points)]
        legend_below(figure, _legend(shown, result, look))
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    if result.settings.get("measure") == "cosine":
        what = "Mean cosine of the features of changed and unchanged images, less the mean of the unchanged ones"
        return f"{what}. Dashed: untrained tower. {rests_on(result.select(role='value'), 'images')}"
    return (
        "Top-1 accuracy of prototypes of clean images on changed images; the left end of each curve is the clean "
        "images. Bands: Wilson 95 % at each point; read differences between checkpoints in the paired table, not from "
        f"bands. Dashed: untrained tower; dotted: chance. {rests_on(result.select(role='value'), 'images')}"
    )


def _draw_panel(
    axes: Axes, points: Sequence[Point], kind: str, look: Mapping[str, CheckpointStyle], result: Result
) -> None:
    levels = [*dict.fromkeys(point["level"] for point in points if point["kind"] == kind)]
    clean = any(point["kind"] == "clean" for point in points)
    place = {("clean", 0.0): 0, **{(kind, level): i + clean for i, level in enumerate(levels)}}
    for name in dict.fromkeys(point["checkpoint"] for point in points):
        own = sorted((p for p in points if p["checkpoint"] == name), key=lambda p: place[p["kind"], p["level"]])
        x, y = [place[p["kind"], p["level"]] for p in own], [p["value"] for p in own]
        if name not in look:
            axes.plot(x, y, color=MUTED, linestyle="--", linewidth=0.9)
            continue
        colour, marker = look[name]
        axes.fill_between(x, [p["low"] for p in own], [p["high"] for p in own], color=colour, alpha=0.12, linewidth=0)
        axes.plot(x, y, color=colour, marker=marker, markersize=3, markeredgecolor="white", markeredgewidth=0.4)
        add_tooltips(axes.lines[-1], (_told(point, result) for point in own))
    if chance := result.chance:
        axes.axhline(chance, color=MUTED, linestyle=":", linewidth=0.9)
    axes.set_title(kind.replace("_", " "), fontweight="normal", size=SMALL)
    axes.set_xticks(range(len(levels) + clean), labels=[*(["clean"] if clean else []), *(f"{v:g}" for v in levels)])
    axes.set_xlim(-0.25, max(len(levels) + clean - 0.75, 0.25))
    percent = result.settings.get("measure") != "cosine"
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0, " %") if percent else FuncFormatter(lambda y, _: f"{y:g}"))
    if percent:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y")


def _told(point: Point, result: Result) -> str:
    clean = point["kind"] == "clean"
    level = "clean" if clean else f"{point['kind'].replace('_', ' ')} {point['level']:g}"
    unit = "cosine" if result.settings.get("measure") == "cosine" else "fraction"
    n, method = int(result.settings["n"]), "pointwise 95 %"
    estimate = Estimate(point["value"], point["low"], point["high"], n, unit, method)
    return text(f"{point['checkpoint']}, {point['site']}, {level}", estimate)


def _site_title(site: str, result: Result) -> str:
    measure = "Mean cosine" if result.settings.get("measure") == "cosine" else "Top-1"
    where = read_note(result).replace("the ", "") if site == result.consumed else site
    return f"{measure}, {shorten(where, 14)}"


def _legend(shown: Sequence[str], result: Result, look: Mapping[str, CheckpointStyle]) -> list[Line2D]:
    lines = [
        Line2D([], [], color=look[name].colour, marker=look[name].marker, markersize=3, label=name) for name in shown
    ]
    baselines = [Line2D([], [], color=MUTED, linestyle="--", label=n) for n in result.settings.get("baselines", [])]
    chance = [Line2D([], [], color=MUTED, linestyle=":", label="chance")] if "chance" in result.settings else []
    return [*lines, *baselines, *chance]
