"""Figure of what linear probes read at the consumed site, and from how many labelled images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from visprobe.figures.captions import rests_on
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.forest import draw_forest, sections
from visprobe.figures.marks import add_tooltips, of_rows
from visprobe.figures.site_axis import label_sites, line_positions, place_sites, runs
from visprobe.figures.style import MUTED, TWO_COLUMNS, CheckpointStyle, checkpoint_styles, checkpoints_of, paper_style
from visprobe.figures.text import in_two_lines
from visprobe.results.read_site import read_label, where_read
from visprobe.results.result import Result, Row

_MAIN = {
    "probe_top1": "Linear probe top-1 accuracy",
    "probe_map": "Mean average precision of linear probes",
    "probe_r2": "Held-out R² of linear probes",
}
_FEW = re.compile(r"probe_of_(\d+)")
_BOLD = 9.0  # an 8-point bold title is as wide as regular text of this size
_ASIDE = 0.035  # share of a factor of ten, between the checkpoints at one number of images


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw the main measure at the sites that matter; for classes also few labels and, with many sites, depth.

    Args:
        result: A "probe" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    names = list(dict.fromkeys([*checkpoints, *checkpoints_of(result)]))
    few = [row for row in result.rows if _FEW.fullmatch(row.measure) and row.role != "difference"]
    if not few:
        return _forest(result, names, width)
    return _draw_classes(result, checkpoint_styles(names), few, width or TWO_COLUMNS)


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    measure = _main(result)
    rows = [row for row in result.select(measure=measure) if row.site in _read(result)]
    few = [row for row in result.rows if _FEW.fullmatch(row.measure) and row.role != "difference"]
    if not few:
        return (
            f"{_MAIN[measure]} (left) and its paired difference to the base on the same images (right; an interval "
            f"that contains 0 is no measured difference). Dashed: untrained tower. {rests_on(rows, 'images')}"
        )
    depth = "Below: at every site. " if _deep(result) else ""
    return (
        f"Accuracy of linear probes on images they have not seen, {where_read(result)}: from all training "
        f"images (right end of each panel) and from few of each class. {depth}Dashed and grey: the untrained tower; "
        "crosses: a probe that learned random labels; dotted: chance. "
        f"{rests_on([row for row in (*rows, *few) if row.role != 'difference'], 'images')}"
    )


def _main(result: Result) -> str:
    return next(measure for measure in (*_MAIN, "") if not measure or result.select(measure=measure))


def _read(result: Result) -> dict[str, str]:
    """Return the sites that matter and their titles."""
    consumed, titles = result.consumed, {}
    for site in dict.fromkeys(row.site for row in result.rows):
        place = site.partition(":")[0]
        if place == consumed:
            titles[site] = read_label(result, site)
        elif place == "projected":
            titles[site] = "After the projector"
    return titles


def _deep(result: Result) -> bool:
    return len({row.site for row in result.select(measure="probe_top1")} - _read(result).keys()) > 1


def _forest(result: Result, names: Sequence[str], width: float | None) -> Figure:
    measure, titles = _main(result), _read(result)
    rows = [row for row in result.select(measure=measure) if row.site in titles]
    parts = sections(rows, [titles[row.site] for row in rows], list(titles.values()), names[0])
    return draw_forest(parts, checkpoint_styles(names), _MAIN[measure], width=width)


def _draw_classes(result: Result, look: Mapping[str, CheckpointStyle], few: Sequence[Row], width: float) -> Figure:
    titles, deep = _read(result), _deep(result)
    with paper_style():
        figure = Figure((width, 4.6 if deep else 2.5), layout="constrained")
        grid = figure.add_gridspec(1 + deep, 1)
        panels = grid[0].subgridspec(1, len(titles)).subplots(sharey=True, squeeze=False)[0]
        for panel, (site, title) in zip(panels, titles.items(), strict=True):
            every = [*few, *result.select(measure="probe_top1"), *result.select(measure="probe_control")]
            shown = [row for row in every if row.site == site and row.role != "difference"]
            _draw_labels(panel, shown, look, result)
            panel.set_title(in_two_lines(title, 72 * (0.8 * width / len(titles)), _BOLD))
        panels[0].set_ylabel("Top-1 accuracy")
        _name_lines(panels[-1], [row for row in result.select(measure="probe_top1") if row.site == list(titles)[-1]],
                    look)  # fmt: skip
        if deep:
            _draw_depth(figure.add_subplot(grid[1]), result, look)
    return figure


def _draw_labels(axes: Axes, rows: Sequence[Row], look: Mapping[str, CheckpointStyle], result: Result) -> None:
    sizes = sorted({_size(row, result) for row in rows})
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    for place, name in enumerate(names):
        colour, marker = look.get(name, CheckpointStyle(MUTED, ""))
        own = sorted((row for row in rows if row.checkpoint == name and row.measure != "probe_control"),
                     key=lambda row: _size(row, result))  # fmt: skip
        factor = 10 ** (_ASIDE * (place - (len(names) - 1) / 2))
        x = [_size(row, result) * factor for row in own]
        axes.plot(x, [row.estimate.value for row in own], color=colour, marker=marker, markeredgecolor="white",
                  markeredgewidth=0.4, linestyle="-" if name in look else "--")  # fmt: skip
        add_tooltips(axes.lines[-1], of_rows(own))
        axes.vlines(x, [row.estimate.low for row in own], [row.estimate.high for row in own], color=colour,
                    linewidth=1)  # fmt: skip
        for row in (row for row in rows if row.checkpoint == name and row.measure == "probe_control"):
            at = _size(row, result) * factor
            axes.plot([at], [row.estimate.value], color=colour, marker="x", linestyle="", markersize=3.5)
            add_tooltips(axes.lines[-1], of_rows([row]))
            axes.vlines([at], row.estimate.low, row.estimate.high, color=colour, linewidth=0.6)
    axes.set_xscale("log")
    axes.set_xticks(sizes, labels=[f"{size:g}" for size in sizes[:-1]] + [f"all\n({sizes[-1]:,.0f})"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Training images per class")
    _percent(axes, [row.estimate.high for row in rows], result)


def _size(row: Row, result: Result) -> float:
    """Return the training images per class; for the whole split, the mean over classes."""
    few = _FEW.fullmatch(row.measure)
    return float(few[1]) if few else round(result.settings["n_support"] / result.settings["classes"])


def _percent(axes: Axes, highest: Sequence[float], result: Result) -> None:
    top = max(axes.get_ylim()[1], 1.05 * max(highest))  # panels share this axis
    axes.set_ylim(0, min(1.01, top))
    axes.axhline(result.settings["chance"], color=MUTED, linestyle=":", linewidth=0.9)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")


def _name_lines(axes: Axes, rows: Sequence[Row], look: Mapping[str, CheckpointStyle]) -> None:
    label_ends(axes, [
        End(row.checkpoint, row.estimate.value, *look.get(row.checkpoint, CheckpointStyle(MUTED, "")),
            line="-" if row.checkpoint in look else "--")
        for row in rows if row.role != "difference"
    ])  # fmt: skip


def _draw_depth(axes: Axes, result: Result, look: Mapping[str, CheckpointStyle]) -> None:
    rows = [row for row in result.select(measure="probe_top1") if row.role != "difference" and ":" not in row.site]
    positions = place_sites([site for site in result.sites if ":" not in site])
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    _percent(axes, [row.estimate.high for row in rows], result)
    label_sites(axes, positions, result)
    ends = []
    for place, name in enumerate(names):
        at = {row.site: row for row in rows if row.checkpoint == name}
        colour, marker = look.get(name, CheckpointStyle(MUTED, ""))
        for run in runs([site for site in positions if site in at]):
            x = line_positions(run, positions, place, len(names))
            axes.plot(x, [at[s].estimate.value for s in run], color=colour, marker=marker or "_" * (len(run) < 2),
                      linestyle="-" if name in look else "--", markeredgecolor="white" if marker else colour,
                      markeredgewidth=0.4 if marker else 1.0)  # fmt: skip
            add_tooltips(axes.lines[-1], of_rows(at[site] for site in run))
            axes.vlines(x, [at[s].estimate.low for s in run], [at[s].estimate.high for s in run], color=colour,
                        linewidth=0.9)  # fmt: skip
        ends.append(End(name, at[run[-1]].estimate.value, colour, marker, line="-" if name in look else "--"))
    label_ends(axes, ends)
    axes.set_ylabel("Top-1 accuracy")
