"""Horizontal axis through an encoder: blocks at equal steps, other sites set apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes

from visprobe.figures.labels import block_number, on_two_lines, site_label
from visprobe.figures.style import MUTED, SHADE, SMALL
from visprobe.figures.text import width_of
from visprobe.results.read_site import read_note
from visprobe.results.result import Result

_MOST_BLOCK_LABELS = 15
_HALF_SLOT = 0.45
_ASIDE = 0.008  # share of the axis
_SHARE = 0.65  # share of the figure's width
_NUMBER = 0.2  # inches


def _inches(axes: Axes) -> float:
    """Estimate the width of `axes` once names and numbers have their room."""
    figure, place = axes.get_figure(root=True), axes.get_subplotspec()
    across = place.get_gridspec().ncols if place else 1
    return (figure.get_figwidth() if figure else 1.0) * _SHARE / across


def _width(one: str, other: str) -> float:
    """Return the inches that two neighbouring labels need from middle to middle."""
    return (0.5 * width_of(site_label(one)) + 0.5 * width_of(site_label(other)) + 0.8) * SMALL / 72


def place_sites(sites: Sequence[str]) -> dict[str, float]:
    """Return an x position per site, in the given order: 1 between blocks, more beside any other site.

    Args:
        sites: Site or weight-group names from the input to the output.
    """
    sites = list(dict.fromkeys(sites))
    gap = max(1.3, 0.1 * len(sites))
    positions: dict[str, float] = {}
    x, before = 0.0, None
    for site in sites:
        blocks = block_number(site) is not None
        if before is not None:
            x += 1.0 if blocks and before else gap
        positions[site], before = x, blocks
    return positions


def runs(sites: Sequence[str]) -> list[list[str]]:
    """Group the sites that one line joins: neighbouring blocks together, every other site alone."""
    groups: list[list[str]] = []
    for site in sites:
        joined = groups and block_number(site) is not None and block_number(groups[-1][-1]) is not None
        groups[-1].append(site) if joined else groups.append([site])
    return groups


def line_positions(run: Sequence[str], positions: Mapping[str, float], index: int, count: int) -> list[float]:
    """Return x positions of `run` for line `index` of `count`: lines share blocks, lone points stand side by side."""
    span = max(positions.values()) - min(positions.values())
    aside = 0.0 if len(run) > 1 else _ASIDE * span * (index - (count - 1) / 2)
    return [positions[site] + aside for site in run]


def label_sites(axes: Axes, positions: Mapping[str, float], result: Result | None = None) -> None:
    """Set ticks and labels of `positions` on the x axis of `axes`, and shade the consumed site of `result`."""
    ends = min(positions.values(), default=0) - 0.8, max(positions.values(), default=1) + 0.8
    unit = _inches(axes) / (ends[1] - ends[0])
    blocks = [site for site in positions if block_number(site) is not None]
    every = max(math.ceil(len(blocks) / _MOST_BLOCK_LABELS), math.ceil(_NUMBER / unit), 1)
    shown = [s for s in positions if s not in blocks or (block_number(s) or 0) % every == 0]
    axes.set_xticks([positions[s] for s in shown], labels=[site_label(s) for s in shown])
    axes.set_xlim(ends)
    if any(_width(a, b) > unit * (positions[b] - positions[a]) for a, b in pairwise(shown)):
        for site, label in zip(shown, axes.get_xticklabels(), strict=True):
            label.set_rotation(0 if site in blocks else 90)
    axes.set_xlabel("Block, counted from the input")
    consumed = str(result.consumed) if result else ""
    if result and consumed in positions:
        x = positions[consumed]
        axes.axvspan(x - _HALF_SLOT, x + _HALF_SLOT, color=SHADE, linewidth=0, zorder=0)
        axes.annotate(
            on_two_lines(read_note(result)),
            (x, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color=MUTED,
            size=SMALL,
        )
