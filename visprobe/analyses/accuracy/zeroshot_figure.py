"""Figure of zero-shot accuracy, with the paired difference to the base."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.figures.captions import rests_on
from visprobe.figures.forest import draw_forest, sections
from visprobe.figures.style import checkpoint_styles, checkpoints_of
from visprobe.results.result import Result

_TOP1 = "zeroshot_top1"


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw zero-shot top-1 with intervals, by pooling head, and paired differences to the base.

    Args:
        result: A "zeroshot" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures;
            those of `result` if empty.
        width: Inches; two columns of a paper if None.
    """
    names = list(dict.fromkeys([*checkpoints, *checkpoints_of(result)]))
    rows = result.select(measure=_TOP1)
    titles = {row.site: _title(row.site) for row in rows}
    parts = sections(rows, [titles[row.site] for row in rows], list(titles.values()), names[0])
    return draw_forest(parts, checkpoint_styles(names), "Zero-shot top-1 accuracy", result.chance, width)


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    lent = any("(head of" in row.site for row in result.rows)
    borrowed = (
        " A borrowed head was trained for the features of the model it comes from: where accuracy is low, the head may "
        "no longer fit." * lent
    )
    return (
        "Zero-shot accuracy: share of images whose embedding is nearest to the sentences about their class (left) and "
        "its paired difference to the base on the same images (right; an interval that contains 0 is no measured "
        f"difference).{borrowed} Dashed: untrained tower; dotted: chance. "
        f"{rests_on(result.select(measure=_TOP1), 'images')}"
    )


def _title(site: str) -> str:
    """Name the head that pools: "Own head", or "Head of so400m"."""
    head = site.partition("(")[2].removesuffix(")")
    return f"{head[0].upper()}{head[1:]}" if head else "Own head"
