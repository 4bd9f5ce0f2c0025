"""Figure of each attention head's distance from the base, blocks across and heads downwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visprobe.figures.captions import rests_on
from visprobe.figures.heat_maps import (
    Table,
    colour_bar,
    draw_map,
    figure_of,
    log_scale,
    most_across,
    number_ticks,
    titles,
)
from visprobe.figures.marks import add_tooltips
from visprobe.figures.style import paper_style
from visprobe.results.result import Result

_ROUNDING = 1e-9  # maps are kept to nine digits


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw 1 − CKA of every head on one logarithmic scale, descendants first, then bfloat16 rounding.

    Args:
        result: A "heads" result, its CKAs in settings["maps"].
        checkpoints: Not needed: checkpoints have panels and no colours.
        width: Inches; two columns of a paper if None.
    """
    maps = _distances(result)
    blocks = [str(int(site.rpartition("_")[2])) for site in result.sites]
    count = int(result.settings.get("heads", 1))
    aspect = min(1.0, max(0.35, count / max(len(blocks), 1)))
    with paper_style():
        if not maps:
            return Figure((1, 1))
        figure, panels = figure_of(len(maps), aspect, width)
        scale = log_scale(maps, _ROUNDING)
        for axes, title, (name, table) in zip(panels, titles(list(maps), panels), maps.items(), strict=True):
            mesh = draw_map(axes, title, table, scale, square=False)
            add_tooltips(axes.collections[0], _told(name, blocks, table))
            _mark_still(axes, result.settings.get("moved", {}).get(name))
            number_ticks("x", axes, blocks)
            number_ticks("y", axes, [str(head) for head in range(count)])
            axes.set_xlabel("Block")
        panels[0].set_ylabel("Head, from 0")
        colour_bar(mesh, panels[most_across(len(panels), width) - 1], "Distance to the base, 1 − CKA")
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.measure.endswith("head_cka") and row.role != "difference"]
    return (
        "Attention heads: distance of each head's output from that of the same head of the base (1 − debiased linear "
        "CKA, one logarithmic scale, brighter is farther). A white dot marks a head that did not measurably move "
        f"further than rounding moves any head. {rests_on(rows, 'images')}"
    )


def _distances(result: Result) -> dict[str, Table]:
    """Return tables of heads by blocks, without the untrained baseline: beside it every other map would be dark."""
    maps: Mapping[str, Table] = result.settings.get("maps", {})
    apart = {row.checkpoint for row in result.rows if row.baseline == "untrained"}
    shown = {name: np.maximum(1 - np.array(table).T, _ROUNDING) for name, table in maps.items() if name not in apart}
    return {name: table.tolist() for name, table in shown.items() if table.size}


def _told(name: str, blocks: Sequence[str], table: Table) -> Iterator[str]:
    for head, line in enumerate(table):
        for block, distance in zip(blocks, line, strict=True):
            yield f"{name}, block {block}, head {head}: 1 − CKA {distance:.3g}"


def _mark_still(axes: Axes, moved: Sequence[Sequence[bool]] | None) -> None:
    if moved is not None:
        blocks, heads = np.nonzero(~np.array(moved, dtype=bool))
        axes.plot(blocks + 0.5, heads + 0.5, ".", color="white", markersize=2.5, markeredgewidth=0)
