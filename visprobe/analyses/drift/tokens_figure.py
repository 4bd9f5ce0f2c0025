"""Figure of each checkpoint's change on the grid of patch tokens, beside the base's token norms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from visprobe.figures.captions import rests_on
from visprobe.figures.heat_maps import Table, colour_bar, draw_map, figure_of, linear_scale, most_across, titles
from visprobe.figures.marks import add_tooltips
from visprobe.figures.style import paper_style
from visprobe.results.result import Result


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the mean relative change of every token on one scale, and the base's mean norms on their own.

    Args:
        result: A "tokens" result, with settings["maps"], settings["norms"] and settings["grid"].
        checkpoints: Not needed: checkpoints have panels and no colours.
        width: Inches; two columns of a paper if None.
    """
    baselines = {row.checkpoint for row in result.rows if row.role == "baseline"}  # left out: they would set the scale
    maps = {name: table for name, table in result.settings.get("maps", {}).items() if name not in baselines}
    norms, base = result.settings.get("norms"), result.settings.get("base", "base")
    rows, columns = result.settings.get("grid", (1, 1))
    with paper_style():
        if not norms:
            return Figure((1, 1))
        figure, panels = figure_of(len(maps) + 1, rows / columns, width)
        scale = linear_scale(list(maps.values()))
        *above, norm = titles([*maps, f"{base}: norms"], panels)
        for axes, title, (name, table) in zip(panels, above, maps.items(), strict=False):
            mesh = draw_map(axes, title, table, scale)
            add_tooltips(axes.collections[0], _told(f"{name}: relative change", table))
        if maps:
            colour_bar(
                mesh, panels[min(len(maps), most_across(len(panels), width)) - 1], "Relative change, |Δ| / |token|"
            )
        last = draw_map(panels[-1], norm, norms, linear_scale([norms]))
        add_tooltips(panels[-1].collections[0], _told(f"{base}: mean norm", norms))
        colour_bar(last, panels[-1], "Mean token norm")
        for axes in panels:
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.rows if row.role != "difference"]
    return (
        f"Patch tokens at {result.settings.get('consumed', 'the consumed site')}, where they lie in the image: mean "
        "relative change of each token from the base (one scale, brighter is farther), and the mean norm of the base's "
        f"tokens. Very large norms mark tokens that hold more than their patch. {rests_on(rows, 'images')}"
    )


def _told(what: str, table: Table) -> Iterator[str]:
    for down, line in enumerate(table, start=1):
        yield from (f"{what} {value:.4g}, row {down}, column {across}" for across, value in enumerate(line, start=1))
