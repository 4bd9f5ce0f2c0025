"""Figure of kNN accuracy, block by block."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.analyses.accuracy.depth_figure import draw_by_depth
from visprobe.figures.captions import rests_on
from visprobe.results.result import Result


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw kNN accuracy at every site, and paired differences to the base at the consumed site.

    Args:
        result: A "knn" result.
        checkpoints: All checkpoints of the report, base first, so that each keeps its colour over figures.
        width: Inches; two columns of a paper if None.
    """
    return draw_by_depth(result, _measure(result), f"kNN accuracy, k = {_measure(result)[4:]}", checkpoints, width)


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n and the interval methods."""
    return (
        "kNN accuracy: share of images whose class wins the vote of their most similar images, at every site from the "
        "input to the projector; right: paired differences to the base on the same images. Dashed: untrained tower; "
        f"dotted: chance. {rests_on(result.select(measure=_measure(result)), 'images')}"
    )


def _measure(result: Result) -> str:
    """Return "knn_20", which is tried everywhere, or the first measure there is."""
    measures = [row.measure for row in result.rows]
    return "knn_20" if "knn_20" in measures else measures[0]
