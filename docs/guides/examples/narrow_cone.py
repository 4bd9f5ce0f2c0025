"""narrow_cone: do the features of different images point the same way?"""

from __future__ import annotations

from numpy.typing import ArrayLike

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import pairs, value_rows
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.refusals import naming
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import unit_rows
from visprobe.results.result import Result

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
    """The mean cosine at what the language model reads, of every checkpoint and floor, and differences to the base."""
    base, *rest = align(inputs.all)
    found = {(features.encoder, base.consumed, "mean_cosine"): _measured(features) for features in (base, *rest)}
    values = {key: replicated.estimate(COSINE) for key, replicated in found.items()}
    rows = [*value_rows(values, [features.encoder for features in inputs.floors])]
    for features in inputs.others:
        for pair in pairs(found, (base.encoder, features.encoder)):
            rows.append(pair.row((pair.after - pair.before).estimate(COSINE.of_differences)))
    settings = {"base": base.encoder, "images": base.images, "n": len(base.item_ids)}
    return Result("narrow_cone", QUESTION, tuple(rows), settings)


def _measured(features: FeatureSet) -> Replicated:
    with naming(features, features.consumed, "the mean cosine"):
        return mean_cosine(features.sites[features.consumed])


NARROW_CONE = Analysis(
    name="narrow_cone", question=QUESTION, needs=lambda encoder: [encoder.consumed], run=narrow_cone, floors="untrained"
)
