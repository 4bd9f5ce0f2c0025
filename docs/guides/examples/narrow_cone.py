"""narrow_cone: do the features of different images point the same way?"""

from __future__ import annotations

from collections.abc import Iterator

from numpy.typing import ArrayLike

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.replicates import Scale, estimate, paired
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.matrices import unit_rows
from visprobe.results.result import Result, Role, Row

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
    site, n = base.consumed, len(base.item_ids)
    found = {features.encoder: _measured(features) for features in (base, *rest)}
    floors = {features.encoder for features in inputs.floors}

    def rows() -> Iterator[Row]:
        for name, replicated in found.items():
            role: Role = "floor" if name in floors else "value"
            yield Row(name, site, "mean_cosine", estimate(replicated, n, COSINE), role=role)
        for features in inputs.others:
            change = paired(found[features.encoder], found[base.encoder])
            number = estimate(change, n, COSINE.of_differences)
            yield Row(features.encoder, site, "mean_cosine", number, base.encoder, "difference")

    return Result("narrow_cone", QUESTION, tuple(rows()), {"base": base.encoder, "images": base.images, "n": n})


def _measured(features: FeatureSet) -> Replicated:
    try:
        return mean_cosine(features.sites[features.consumed])
    except ValueError as error:
        raise DataError(
            f"{features.encoder} has no mean cosine on {features.images}: {error}",
            hint="Give at least three images; a zero feature means that the encoder has collapsed.",
        ) from error


NARROW_CONE = Analysis(
    name="narrow_cone", question=QUESTION, needs=lambda encoder: [encoder.consumed], run=narrow_cone, floors="untrained"
)
