"""Figure of prototype accuracy, with the paired difference to the base."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.analyses.accuracy.depth_figure import draw_by_depth
from visprobe.figures.captions import rests_on
from visprobe.figures.forest import draw_forest, sections
from visprobe.figures.style import checkpoint_styles, checkpoints_of
from visprobe.results.read_site import read_label
from visprobe.results.result import Result

_PROJECTED = "projected"


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw top-1 with intervals at every site, or at the consumed ones only, and differences to the base.

    Args:
        result: An "imagenet" result: rows of measure "top1" with roles "value", "baseline" and "difference".
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    if _has_curve(result):
        return draw_by_depth(result, "top1", "Prototype top-1 accuracy", checkpoints, width)
    names = list(dict.fromkeys([*checkpoints, *checkpoints_of(result)]))
    titles = _titles(result)
    rows = [row for row in result.select(measure="top1") if row.site in titles]
    parts = sections(rows, [titles[row.site] for row in rows], list(titles.values()), names[0])
    return draw_forest(parts, checkpoint_styles(names), "Prototype top-1 accuracy", result.chance, width)


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    rows = [row for row in result.select(measure="top1") if row.site in _titles(result)]
    if _has_curve(result):
        return (
            "Prototype accuracy: share of images whose nearest class prototype is their own, at every site from the "
            "input to the projector (left, bands are 95 % intervals) and its paired difference to the base on the same "
            "images (right; an interval that contains 0 is no measured difference). Dashed: untrained tower; dotted: "
            f"chance. {rests_on(rows, 'images')}"
        )
    return (
        "Prototype accuracy: share of images whose nearest class prototype is their own (left) and its paired "
        "difference to the base on the same images (right; an interval that contains 0 is no measured difference). "
        f"Dashed: untrained tower; dotted: chance. {rests_on(rows, 'images')}"
    )


def _has_curve(result: Result) -> bool:
    return len({site for site in result.sites if ":" not in site} - {*_titles(result)}) > 0


def _titles(result: Result) -> dict[str, str]:
    """Return the sites to show and their headings; every site if the result does not name the consumed one."""
    sites = dict.fromkeys(row.site for row in result.select(measure="top1"))
    consumed = result.consumed
    kept = [s for s in sites if s in (consumed, _PROJECTED)] if consumed in sites else list(sites)
    return {site: _title(site, result) for site in kept}


def _title(site: str, result: Result) -> str:
    return {result.consumed: read_label(result), _PROJECTED: "after the projector"}.get(site, site)
