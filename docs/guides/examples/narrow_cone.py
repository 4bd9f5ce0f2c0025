"""narrow_cone: do the features of different images point the same way?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import kinds_of, pairs, value_rows
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.refusals import naming
from visprobe.features.feature_set import FeatureSet
from visprobe.figures.captions import rests_on
from visprobe.figures.labels import shorten
from visprobe.figures.style import MUTED, ONE_COLUMN, checkpoint_styles, checkpoints_of, paper_style
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import unit_rows
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result
from visprobe.results.rules import Findings, Rule
from visprobe.results.statement import Statement, evidence, sign_of, signed

QUESTION = "Do the features of different images point the same way?"
COSINE = Scale("cosine", -1, 1)


def mean_cosine(features: ArrayLike) -> Replicated:
    """Mean cosine over all pairs of two different images, and the same without each image in turn.

    Args:
        features: Any real dtype, shape (n, d), one row per image, n >= 3.

    Returns:
        Values in [-1 / (n - 1), 1]: 1 where all images have one direction, about 0 where they have every direction.

    Raises:
        ValueError: If there are fewer than 3 rows, or a row is zero or not finite.

    Source:
        Ethayarajh 2019 (1909.00512) measures so how narrow a cone random words fill; here images take their place.
    """
    units = unit_rows(features, 3, "a mean cosine")
    n, total = len(units), units.sum(axis=0)
    square = float(total @ total)  # the sum over all pairs, the n pairs of an image with itself among them
    without = (square - 2 * (units @ total) + 1 - (n - 1)) / ((n - 1) * (n - 2))
    return Replicated((square - n) / (n * (n - 1)), without)


def narrow_cone(inputs: Inputs) -> Result:
    """Measure the mean cosine of what the language model reads, with differences to the base."""
    base, *rest = align(inputs.all)
    found = {(features.encoder, base.consumed, "mean_cosine"): _measured(features) for features in (base, *rest)}
    values = {key: replicated.estimate(COSINE) for key, replicated in found.items()}
    rows = [*value_rows(values, kinds_of(inputs.baselines))]
    for features in inputs.others:
        for pair in pairs(found, (base.encoder, features.encoder)):
            rows.append(pair.row((pair.after - pair.before).estimate(COSINE.of_differences)))
    settings = {"base": base.encoder, "images": base.images, "n": len(base.item_ids)}
    return Result("narrow_cone", QUESTION, tuple(rows), settings)


def _measured(features: FeatureSet) -> Replicated:
    with naming(features, features.consumed, "the mean cosine"):
        return mean_cosine(features.sites[features.consumed])


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """The mean cosine of every checkpoint, and of the untrained tower in grey, with intervals."""
    look = checkpoint_styles([*checkpoints, *checkpoints_of(result)])
    rows = [row for row in result.rows if row.role != "difference"]
    with paper_style():
        figure = Figure((width or ONE_COLUMN, 0.5 + 0.2 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for y, row in enumerate(rows):
            colour, marker = (MUTED, "|") if row.role == "baseline" else look[row.checkpoint]
            axes.plot([row.estimate.low, row.estimate.high], [y, y], color=colour)
            axes.plot([row.estimate.value], [y], color=colour, marker=marker)
        axes.set_yticks(range(len(rows)), labels=[shorten(row.checkpoint) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("Mean cosine of two images")
    return figure


def caption(result: Result) -> str:
    """The caption of `draw(result)`; visprobe adds the names of the baselines."""
    return f"How narrow a cone the features of different images fill. {rests_on(result.rows, 'images')}"


def sentences(findings: Findings) -> Iterator[Statement]:
    """Say which checkpoints differ from the base; nothing of those whose interval holds 0."""
    result = findings["narrow_cone"]
    for row in result.select(role="difference"):
        number = row.estimate
        if sign := sign_of(number):
            value, low, high = (signed(one, 3) for one in (number.value, number.low, number.high))
            text = (
                f"{row.checkpoint}'s features fill a {'narrower' if sign > 0 else 'wider'} cone than "
                f"{row.reference}'s: difference in mean cosine {value} [{low}, {high}]."
            )
            yield Statement(text, evidence(result, [row]))


NARROW_CONE = Analysis(
    name="narrow_cone",
    question=QUESTION,
    needs=lambda encoder: [encoder.consumed],
    run=narrow_cone,
    baselines="untrained",
    presentation=Presentation(
        titles={"mean_cosine": "Mean cosine of the features of two images"},
        figures=(FigureSpec("narrow_cone", __name__),),
        rules=(Rule(whole=sentences),),
    ),
)
