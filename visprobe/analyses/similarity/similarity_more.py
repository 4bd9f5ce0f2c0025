"""Further measures of similarity that papers report, at the consumed site."""

from __future__ import annotations

from collections.abc import Sequence

from visprobe.analyses.core.against_base import Features, Measure, against_base
from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.core.differences import Replicates
from visprobe.analyses.similarity.similarity import NEAR_IMAGES
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import replicate_by_groups
from visprobe.metrics.similarity.cca import pwcca
from visprobe.metrics.similarity.rsa import replicate_rsa
from visprobe.results.presentation import Presentation
from visprobe.results.result import Result

QUESTION = "How alike are a checkpoint's features and the base's, by other measures that papers report?"


def _rsa(base: Features, other: Features, seed: int) -> Replicates:
    return replicate_rsa(base, other)


def _pwcca(base: Features, other: Features, seed: int) -> Replicates:
    return replicate_by_groups(lambda rows: pwcca(base[rows], other[rows]), len(base), seed=seed)


MEASURES = (
    Measure("rsa", Scale("correlation", -1, 1), _rsa, NEAR_IMAGES),
    Measure("pwcca", Scale("correlation", 0, 1), _pwcca, per_direction=5),
)


def similarity_more(
    base: FeatureSet, others: Sequence[FeatureSet], baselines: Sequence[FeatureSet] = (), seed: int = 0
) -> Result:
    """Measure RSA and PWCCA with the base at the consumed site.

    Args:
        base: Pooled features of the images under the base checkpoint.
        others: Features of the same images under its descendants.
        baselines: Features of the same images under the baselines.
        seed: Seed of the random groups.

    Returns:
        Rows "rsa" (Pearson correlation of correlation distances) and, with five images or more per dimension, "pwcca"
        (weighted by the base's directions).

    Raises:
        DataError: If the images differ or are fewer than 50, or a measure is not defined for the features.
    """
    compared = against_base(base, others, baselines, {base.consumed: MEASURES}, seed)
    settings = compared.settings() | {"near_images": min(NEAR_IMAGES, len(base.item_ids))}
    return Result("similarity_more", QUESTION, compared.rows(), settings, compared.warnings)


SIMILARITY_MORE = Analysis(
    name="similarity_more",
    question=QUESTION,
    needs=lambda encoder: ["consumed"],
    run=lambda inputs: similarity_more(inputs.base, inputs.others, inputs.baselines, inputs.seed),
    presentation=Presentation(
        titles={
            "rsa": "RSA: correlation of the distances between images",
            "pwcca": "PWCCA",
        },
        place=185,
    ),
)
