"""Similarity of a checkpoint's features to the base's, by measures that differ in what they overlook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from visprobe.analyses.core.against_base import Compared, Features, Measure, against_base
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import Replicates
from visprobe.analyses.drift.noise_floor import MARGIN, RELATIVE_ARITHMETIC, adjusted, noise_floors, p_larger
from visprobe.analyses.similarity.sentences import RULES
from visprobe.errors import CheckpointError
from visprobe.features.feature_set import FeatureSet, of_tower
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import Replicated, replicate_mean
from visprobe.metrics.similarity.linear_map import linear_map
from visprobe.metrics.similarity.neighbour_overlap import mutual_knn
from visprobe.metrics.similarity.procrustes import replicate_procrustes
from visprobe.metrics.similarity.rbf_cka import replicate_rbf_cka
from visprobe.metrics.similarity.relative_error import unaligned
from visprobe.metrics.weights.difference import total, weight_change
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

QUESTION = (
    "How alike are a checkpoint's features and the base's, if rotations count, if they do not, and image by image?"
)
NEIGHBOURS = 10
NEAR_IMAGES = 2000  # images for neighbours and kernel, whose cost grows with the square
PER_WEIGHT = "change_per_weight_change"


def _cosine(base: Features, other: Features, seed: int) -> Replicates:
    return replicate_mean(unaligned(base, other).cosine)


def _relative_error(base: Features, other: Features, seed: int) -> Replicates:
    return replicate_mean(unaligned(base, other).relative_error)


def _mutual_knn(base: Features, other: Features, seed: int) -> Replicates:
    return mutual_knn(base, other, NEIGHBOURS, seed=seed)


def _rbf_cka(base: Features, other: Features, seed: int) -> Replicates:
    return replicate_rbf_cka(base, other)


def _linear_r2(base: Features, other: Features, seed: int) -> Replicates:
    return linear_map(base, other, seed=seed).r2


EVERYWHERE = (
    Measure("relative_error", Scale("ratio", low=0), _relative_error),
    Measure("cosine", Scale("cosine", -1, 1), _cosine),
)
WHERE_READ = (
    Measure("procrustes", Scale("similarity", -1, 1), replicate_procrustes),
    Measure("linear_r2", Scale("R²", high=1), _linear_r2),
    Measure("rbf_cka", Scale("CKA", -1, 1), _rbf_cka, NEAR_IMAGES),
    Measure("mutual_knn", Scale("fraction", 0, 1), _mutual_knn, NEAR_IMAGES),
)


def similarity(
    base: FeatureSet,
    others: Sequence[FeatureSet],
    baselines: Sequence[FeatureSet] = (),
    weight_changes: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Result:
    """Measure cosine and relative error at every site; neighbours, kernel, rotation and linear map at read sites.

    Args:
        base: Pooled features of the images under the base checkpoint.
        others: Features of the same images under its descendants.
        baselines: Features of the same images under the baselines.
        weight_changes: Relative change of the tower's weights by descendant, >= 0; where it is given and not 0, the
            relative error at the consumed site is also given per unit of it.
        seed: Seed of the random halves and folds.

    Returns:
        Rows "relative_error" (>= 0) and "cosine" at every site; at the consumed site and after the connector
        "procrustes" (held out), "linear_r2" (held out), "rbf_cka" and "mutual_knn"; and
        "change_per_weight_change". Differences of each pair of descendants are over the same replicates.
        settings["p_moved"] holds, by descendant and site, the p-values that the relative error is no larger than
        that of rounding times the root of `moved.MARGIN`, by a paired test, adjusted over the descendant's sites.

    Raises:
        DataError: If the images differ or are fewer than 50, or a measure is not defined for the features.
    """
    plan = {site: (*EVERYWHERE, *(WHERE_READ if site in compared_sites(base) else ())) for site in base.sites}
    compared = _per_weight(against_base(base, others, baselines, plan, seed), weight_changes or {})
    settings = compared.settings() | {
        "p_moved": _p_moved(compared),
        "read_sites": compared_sites(base),
        "neighbours": NEIGHBOURS,
        "near_images": min(NEAR_IMAGES, len(base.item_ids)),
        "weight_changes": dict(weight_changes or {}),
    }
    return Result("similarity", QUESTION, compared.rows(), settings, compared.warnings)


def compared_sites(features: FeatureSet) -> list[str]:
    """Return the site that the language model reads, and the connector's sites."""
    return [features.consumed, *(site for site in features.sites if not of_tower(site))]


def _p_moved(compared: Compared) -> dict[str, dict[str, float]]:
    """Compute by checkpoint and site the p-values that the relative error is no larger than by rounding."""
    # 1 - CKA grows with the square of the error, so that the margin is a root here.
    found, margin = compared.found, math.sqrt(MARGIN)

    def error(name: str, site: str) -> Replicated | None:
        one = found.get((name, site, "relative_error"))
        return one if isinstance(one, Replicated) else None

    def p(name: str) -> Iterator[tuple[str, float]]:
        for site in compared.base.sites:
            noise = [one for floor in noise_floors(compared.baselines) if (one := error(floor, site))]
            own, bar = error(name, site), max(noise, key=lambda one: one.value, default=None)
            if own and bar:
                yield site, p_larger(own, [(margin, bar)], RELATIVE_ARITHMETIC)

    return {name: adjusted(dict(p(name))) for name in compared.names}


def _per_weight(compared: Compared, weight_changes: Mapping[str, float]) -> Compared:
    site, found = compared.base.consumed, dict(compared.found)
    for name, change in weight_changes.items():
        moved = compared.found.get((name, site, "relative_error"))
        if isinstance(moved, Replicated) and 0 < change < math.inf:
            found[name, site, PER_WEIGHT] = Replicated(moved.value / change, moved.without / change)
    return replace(compared, found=found, scales={**compared.scales, PER_WEIGHT: Scale("ratio", low=0)})


def tower_change(base: VisionEncoder, other: VisionEncoder) -> float:
    """Compute the relative Frobenius change of the tower's weights that the language model's loss reaches, >= 0.

    Raises:
        CheckpointError: If a weight has another shape than the base's.
    """
    origin, result = base.weights(), other.weights()
    aside = {"projector", *base.provenance.off_path}
    shared = [name for name in origin if name in result and base.weight_group(name) not in aside]
    try:
        changes = [weight_change(origin[n], result[n]) for n in shared if origin[n].is_floating_point()]
    except ValueError as error:
        raise CheckpointError(
            f"the weights of {other.name} do not fit those of {base.name}: {error}",
            hint="Compare checkpoints that descend from one base, with the base first.",
        ) from error
    return total(changes).relative_change


def _run(inputs: Inputs) -> Result:
    base, *others = inputs.encoders
    changes = {other.name: tower_change(base, other) for other in others}
    return similarity(inputs.base, inputs.others, inputs.baselines, changes, inputs.seed)


SIMILARITY = Analysis(
    name="similarity",
    question=QUESTION,
    needs=lambda encoder: [site.name for site in encoder.sites],
    run=_run,
    presentation=Presentation(
        titles={
            "relative_error": "Relative change of the features",
            "cosine": "Cosine with the base's features",
            "procrustes": "Held-out Procrustes similarity",
            "linear_r2": "Held-out R² of a linear map from the base's features",
            "rbf_cka": "Debiased RBF CKA",
            "mutual_knn": "Shared nearest neighbours (mutual kNN, k = 10)",
            "change_per_weight_change": "Relative change of the features per relative change of the tower's weights",
        },
        figures=(FigureSpec("similarity", "visprobe.analyses.similarity.similarity_figure"),),
        place=180,
        rules=RULES,
    ),
)
