"""Figure of every site of the base against every site of each checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visprobe.figures.captions import rests_on
from visprobe.figures.heat_maps import (
    Table,
    colour_bar,
    draw_map,
    figure_of,
    linear_scale,
    most_across,
    number_ticks,
    titles,
)
from visprobe.figures.labels import site_label
from visprobe.figures.marks import add_tooltips, text
from visprobe.figures.style import INK, paper_style
from visprobe.figures.text import fitted
from visprobe.results.read_site import what_is_read
from visprobe.results.result import Result


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw maps of CKA on one scale up to 1, the base with itself first; the consumed site is framed.

    Args:
        result: A "sites" result, its maps in settings["maps"].
        checkpoints: Not needed: checkpoints have panels and no colours.
        width: Inches; two columns of a paper if None.
    """
    maps = result.settings.get("maps", {})
    sites = result.sites
    base = result.settings.get("base", "base")
    with paper_style():
        if not maps:
            return Figure((1, 1))
        figure, panels = figure_of(len(maps), 1.0, width)
        scale = linear_scale(list(maps.values()), high=1.0)
        labels = [site_label(site) for site in sites]
        for axes, title, (name, table) in zip(panels, titles(list(maps), panels), maps.items(), strict=True):
            mesh = draw_map(axes, title, table, scale)
            add_tooltips(axes.collections[0], _told(result, name, table))
            number_ticks("x", axes, labels, most=7)
            number_ticks("y", axes, labels)
            for label in axes.get_xticklabels():
                label.set_rotation(90)
            _frame_consumed(axes, sites, result.consumed)
        panels[0].set_ylabel(fitted(f"Site of {base}", 100, 7.5))
        figure.supxlabel("Site of the checkpoint above the map")
        colour_bar(mesh, panels[most_across(len(panels), width) - 1], "CKA")
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.measure == "own_site_cka"]
    return (
        "Depth: debiased linear CKA of every site of the base (downwards) with every site of the checkpoint named "
        "above the map (across), on one scale; the first map is the base with itself. The frame marks "
        f"{what_is_read(result)}. Where a checkpoint's features took on another depth, the bright band leaves the "
        f"diagonal. Rows of the table: {rests_on(rows, 'images')}"
    )


def _told(result: Result, name: str, table: Table) -> Iterator[str]:
    """Yield a tooltip per cell; only cells of one site in both have an interval."""
    sites, base = result.sites, result.settings.get("base", "base")
    own = {row.site: row.estimate for row in result.select(measure="own_site_cka", checkpoint=name)}
    for down, line in zip(sites, table, strict=True):
        for across, value in zip(sites, line, strict=True):
            what = f"{base} {down} × {name} {across}"
            same = down == across and across in own
            yield text(what, own[across]) if same else f"{what}: CKA {value:.6g}"


def _frame_consumed(axes: Axes, sites: Sequence[str], consumed: str | None) -> None:
    if consumed in sites:
        place = sites.index(consumed)
        axes.plot([place, place + 1, place + 1, place, place], [place, place, place + 1, place + 1, place],
                  color=INK, linewidth=0.8, clip_on=False)  # fmt: skip
