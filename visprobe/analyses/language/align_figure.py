"""Figure of the neighbours that an encoder shares with language models, and differences to the base."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.figures.captions import rests_on
from visprobe.figures.forest import draw_forest, sections
from visprobe.figures.labels import shorten
from visprobe.figures.style import checkpoint_styles, checkpoints_of
from visprobe.results.read_site import read_note
from visprobe.results.result import Result, Row

_SHOWN = ("text_knn", "text_best")


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw mutual kNN with intervals by language model, layer and site, and paired differences to the base.

    Args:
        result: An "align" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    names = list(dict.fromkeys([*checkpoints, *checkpoints_of(result)]))
    rows = [row for row in _shown(result) if row.checkpoint != "chance"]
    titles = {row.measure: _title(row.measure, result) for row in rows}
    parts = sections(rows, [titles[row.measure] for row in rows], list(titles.values()), names[0])
    return draw_forest(parts, checkpoint_styles(names), "Shared neighbours (mutual kNN)", result.chance, width)


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    return (
        "Alignment with language models: share of an image's 10 nearest images that are also nearest by their "
        "captions (left), by language model, layer and site, and the largest over all sites and layers; its paired "
        "difference to the base on the same images (right). Dashed: untrained tower, and the largest value where "
        "captions are shuffled, which is above chance by selection alone; dotted: chance for one layer. "
        f"{rests_on(_shown(result), 'images')}"
    )


def _shown(result: Result) -> list[Row]:
    return [row for row in result.rows if row.measure.partition("/")[0] in _SHOWN]


def _title(measure: str, result: Result) -> str:
    """Return the heading of a measure: "lm: middle layer, read by the LLM"."""
    kind, _, about = measure.partition("/")
    if kind == "text_best":
        return f"{about}: largest over sites and layers"
    model, depth, site = about.rsplit(", ", 2)
    layer = {"half depth": "middle layer", "last": "last layer"}.get(depth, depth)
    known = {"projected": "after the projector", result.consumed: read_note(result)}
    return f"{shorten(model, 16)}: {layer}, {known.get(site, site)}"
