"""Geometry of each checkpoint's representation: number of directions used, their evenness, outlier tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.core.differences import Key, Replicates, kinds_of, pairs, subtract, value_rows
from visprobe.analyses.core.pairing import align, common_settings, same_tower
from visprobe.analyses.core.refusals import naming, refuse_fewer
from visprobe.analyses.similarity.similarity import compared_sites
from visprobe.features.feature_set import FeatureSet, of_tower
from visprobe.metrics.arrays import Array
from visprobe.metrics.geometry.effective_rank import participation_ratio, replicate_effective_rank, replicate_rankme
from visprobe.metrics.geometry.intrinsic_dimension import two_nn
from visprobe.metrics.geometry.token_norms import tail_share, tail_threshold
from visprobe.metrics.geometry.uniformity import uniformity
from visprobe.metrics.intervals.estimate import FRACTION, Scale
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result, Row

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

QUESTION = "How many directions does each checkpoint's representation use, how evenly, and with which outliers?"
LEAST = 50
NORMS = ":norms"
DEVIATIONS = 10.0  # in MADs above the base's median norm
_FEW_PER_DIRECTION = 10  # below this ranks come out too low: analyses/geometry/card.md


class _Shape(NamedTuple):
    scale: Scale
    compute: Callable[[Array, int], Replicates]


MEASURES = {
    "effective_rank": _Shape(Scale("directions", low=1), lambda x, seed: replicate_effective_rank(x, seed=seed)),
    "participation_ratio": _Shape(Scale("directions", low=1), lambda x, seed: participation_ratio(x)),
    "rankme": _Shape(Scale("directions", low=1), lambda x, seed: replicate_rankme(x, seed=seed)),
    "two_nn": _Shape(Scale("dimensions", low=0), lambda x, seed: two_nn(x, seed=seed)),
    "uniformity": _Shape(Scale("log potential", -8, 0), lambda x, seed: uniformity(x)),
}
HIGH_NORM = "high_norm"
_SCALES = {name: one.scale for name, one in MEASURES.items()} | {HIGH_NORM: FRACTION}


def geometry(
    base: FeatureSet, others: Sequence[FeatureSet], baselines: Sequence[FeatureSet] = (), seed: int = 0
) -> Result:
    """Measure ranks, intrinsic dimension, uniformity and the share of high-norm patch tokens.

    Args:
        base: Pooled features of the images under the base at the consumed and the connector's sites, and, where all
            images have one grid, the norms of the consumed patch tokens.
        others: Features of the same images under its descendants.
        baselines: Features of the same images under "untrained" and "<base> (bfloat16)".
        seed: Seed of the random groups and halves.

    Returns:
        Rows "effective_rank", "participation_ratio" and "rankme" (directions, >= 1), "two_nn" (dimensions, > 0) and
        "uniformity" (in [-8, 0]) per site, and "high_norm" (share of patch tokens above the base's median + 10 MAD)
        for the base, its descendants and the baselines; paired differences of every two checkpoints. A descendant has
        no row where its tower's features equal the base's; it is listed in settings["identical"].

    Raises:
        DataError: If the images differ or are fewer than 50, or a measure is not defined for the features.
    """
    base, *rest = align([base, *others, *baselines])
    refuse_fewer(base, LEAST, "an estimate of ranks and dimensions", "Give more images, or leave geometry out.")
    names = [base.encoder, *(features.encoder for features in others)]
    identical = [features.encoder for features in rest[: len(others)] if same_tower(base, features)]
    threshold = _threshold(base)
    found = _found([base, *rest], identical, threshold, seed)
    settings = {
        **common_settings(base),
        "read_sites": compared_sites(base),
        "identical": identical,
        "high_norm_threshold": threshold,
    }
    numbers = {key: one.estimate(_SCALES[key[2]]) for key, one in found.items()}
    rows = (*value_rows(numbers, kinds_of(baselines)), *_differences(found, names))
    return Result("geometry", QUESTION, rows, settings, tuple(_warnings(base, identical)))


def _threshold(base: FeatureSet) -> float | None:
    norms = base.sites.get(base.consumed + NORMS)
    return None if norms is None else tail_threshold(norms, DEVIATIONS)


def _found(
    sets: Sequence[FeatureSet], identical: Sequence[str], threshold: float | None, seed: int
) -> dict[Key, Replicates]:
    base = sets[0]
    measures: dict[str, Callable[[Array, int], Replicates]] = {name: one.compute for name, one in MEASURES.items()}
    if threshold is not None:
        measures[HIGH_NORM] = lambda x, seed: tail_share(x, threshold)
    found: dict[Key, Replicates] = {}
    for measure, compute in measures.items():
        for site in [base.consumed + NORMS] if measure == HIGH_NORM else compared_sites(base):
            for features in sets:
                if features.encoder in identical and np.array_equal(features.sites[site], base.sites[site]):
                    continue
                with naming(features, site, measure):
                    array = np.asarray(features.sites[site], dtype=np.float64)
                    found[features.encoder, site.removesuffix(NORMS), measure] = compute(array, seed)
    return found


def _differences(found: Mapping[Key, Replicates], names: Sequence[str]) -> Iterator[Row]:
    for pair in pairs(found, names):
        # TwoNN drops duplicate rows: where one checkpoint has some, its halves hold other images and cannot be paired.
        if pair.after.student.n == pair.before.student.n:
            yield pair.row(subtract(pair).estimate(_SCALES[pair.measure].of_differences))


def _warnings(base: FeatureSet, identical: Sequence[str]) -> Iterator[str]:
    for name in identical:
        yield (f"{name}: features equal those of {base.encoder} bit for bit: the tower was not trained or not saved")
    for site in compared_sites(base):
        n, d = base.sites[site].shape
        if n < _FEW_PER_DIRECTION * d:
            yield (
                f"{n} images for {d} dimensions at {site}: ranks come out too low and grow with the number of images; "
                f"compare checkpoints, do not quote them against other numbers of images"
            )


def _needs(encoder: VisionEncoder) -> list[str]:
    connector = [site.name for site in encoder.sites if not of_tower(site.name)]
    return ["consumed", *connector, *(["consumed" + NORMS] if encoder.grid else [])]


GEOMETRY = Analysis(
    name="geometry",
    question=QUESTION,
    needs=_needs,
    run=lambda inputs: geometry(inputs.base, inputs.others, inputs.baselines, inputs.seed),
    presentation=Presentation(
        titles={
            "effective_rank": "Effective rank",
            "participation_ratio": "Participation ratio",
            "rankme": "RankMe",
            "two_nn": "Intrinsic dimension (TwoNN)",
            "uniformity": "Uniformity (lower: more evenly spread)",
            "high_norm": "Share of patch tokens of outlying norm",
        },
        figures=(FigureSpec("geometry", "visprobe.analyses.similarity.geometry_figure"),),
        place=190,
    ),
)
