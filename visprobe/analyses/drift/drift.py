"""Representation drift: how far post-training moved the features of the same images, site by site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.core.differences import difference_rows, kinds_of, value_rows
from visprobe.analyses.core.pairing import align, common_settings, same_tower
from visprobe.analyses.core.refusals import naming, refuse_fewer
from visprobe.analyses.drift.noise_floor import adjusted, noise_floors, p_beyond
from visprobe.analyses.drift.sentences import RULES
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import CKA
from visprobe.metrics.intervals.jackknife import Replicated, variance_share
from visprobe.metrics.similarity.cka import Representation, replicate_cka, represent
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result

QUESTION = "Where in the encoder, and how far, did post-training move the representation of the same images?"

# A warning if so few images (share) make up so much of the jackknife variance: the interval describes those images.
_FEW, _MOST = 0.01, 0.5

# Coverage held down to 20 images in simulation (analyses/drift/card.md), but such intervals say little.
_FEW_IMAGES = 50

_Replicates = dict[tuple[str, str], Replicated]  # (checkpoint, site)


def representation_drift(
    base: FeatureSet,
    others: Sequence[FeatureSet],
    baselines: Sequence[FeatureSet] = (),
    rounding: Mapping[str, Replicated] | None = None,
) -> Result:
    """Compute the debiased linear CKA of each checkpoint with the base, at every site that both have.

    Args:
        base: Pooled features of the images under the base checkpoint.
        others: Features of the same images under its descendants.
        baselines: Features of the same images under the baselines: "untrained" (as far as can be) and
            "<base> (bfloat16)" (rounding alone), "<base> (float32)" (arithmetic alone).
        rounding: CKAs from `rounding_of` over the same images, where `baselines` are not given.

    Returns:
        Rows "cka" in [-1, 1] with jackknife intervals, 1 where nothing moved; and for each pair of descendants
        the difference of their CKAs with the base, from the same leave-one-out replicates: negative where the
        later one is further from the base. A descendant whose features equal the base's bit for bit at every site
        before the projector gets no rows there; it is listed in settings["identical"]. settings["p_moved"] holds,
        by descendant and site, the p-values by which a site counts as moved (`visprobe.analyses.drift.noise_floor`),
        adjusted over the descendant's sites; settings["p_beyond"] the same, each by itself.

    Raises:
        DataError: If there are fewer than five images, they are not the same for all, or a feature is not finite
            or does not vary.

    Source:
        Kornblith et al. 2019 (1905.00414), debiased as in Nguyen et al. 2021 (2010.15327).
    """
    base, *rest = align([base, *others, *baselines])
    _refuse_few(base)
    names = [features.encoder for features in others]
    identical = [features.encoder for features in rest[: len(names)] if same_tower(base, features)]
    replicates = _replicates(base, rest, identical)
    found = {(name, site, "cka"): one for (name, site), one in replicates.items()}
    numbers = {key: one.estimate(CKA) for key, one in found.items()}
    rows = value_rows(numbers, kinds_of(baselines), base.encoder)
    differences = difference_rows(found, names, lambda pair: (pair.after - pair.before).estimate(CKA.of_differences))
    rounding = _furthest(baselines, replicates) if rounding is None else rounding
    beyond = {name: p_beyond(_of(name, replicates), rounding) for name in names}
    settings = {
        **common_settings(base),
        "sites": list(base.sites),
        "identical": identical,
        "p_moved": {name: adjusted(p) for name, p in beyond.items()},
        "p_beyond": beyond,
    }
    warnings = tuple(_warnings(base, replicates, identical))
    return Result("drift", QUESTION, (*rows, *differences), settings, warnings)


def _replicates(base: FeatureSet, rest: Sequence[FeatureSet], identical: Sequence[str]) -> _Replicates:
    """Compute CKA with the base and its leave-one-out values; the base is prepared once per site."""
    found: _Replicates = {}
    for site in base.sites:
        origin = _represent(base, site)
        for features in rest:
            told = features.encoder in identical and np.array_equal(features.sites.get(site, []), base.sites[site])
            if site in features.sites and not told:
                found[features.encoder, site] = _compare(origin, features, site)
    order = [features.encoder for features in rest]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))  # stable sort: sites stay in order


def rounding_of(base: FeatureSet, baselines: Sequence[FeatureSet]) -> dict[str, Replicated]:
    """Return by site the CKA with the base of the number-format baseline that is furthest from it.

    Args:
        base: Pooled features of the images under the base checkpoint.
        baselines: Features of the same images under the baselines that number formats make.

    Raises:
        DataError: If there are fewer than five images, they are not the same for all, or a feature is not finite
            or does not vary.
    """
    base, *rest = align([base, *baselines])
    _refuse_few(base)
    return _furthest(baselines, _replicates(base, rest, []))


def _furthest(baselines: Sequence[FeatureSet], replicates: _Replicates) -> dict[str, Replicated]:
    noise = [_of(name, replicates) for name in noise_floors(kinds_of(baselines))]
    return {
        site: min((ckas[site] for ckas in noise if site in ckas), key=lambda cka: cka.value)
        for site in dict.fromkeys(site for ckas in noise for site in ckas)
    }


def _of(name: str, replicates: _Replicates) -> dict[str, Replicated]:
    return {site: replicated for (checkpoint, site), replicated in replicates.items() if checkpoint == name}


def _represent(features: FeatureSet, site: str) -> Representation:
    with naming(features, site, "CKA"):
        return represent(features.sites[site])


def _compare(origin: Representation, features: FeatureSet, site: str) -> Replicated:
    with naming(features, site, "CKA"):
        return replicate_cka(origin, represent(features.sites[site]))


def _refuse_few(base: FeatureSet) -> None:
    refuse_fewer(base, 5, "CKA with an interval", f"Give more images; below {_FEW_IMAGES} the interval is wide.")


def _warnings(base: FeatureSet, replicates: _Replicates, identical: Sequence[str]) -> Iterator[str]:
    for name in identical:
        yield f"{name}: features equal those of {base.encoder} bit for bit: the tower was not trained or not saved"
    if len(base.item_ids) < _FEW_IMAGES:
        yield f"{len(base.item_ids)} images are few; intervals are wide and rest on the images chosen"
        return  # with so few images one always carries much of the variance
    for (checkpoint, site), replicated in replicates.items():
        if few := _carried_by(replicated):
            named = ", ".join(base.item_ids[i] for i in few[:3]) + (", …" if len(few) > 3 else "")
            share = variance_share(replicated)[few].sum()
            yield (
                f"{checkpoint} at {site}: {share:.0%} of the variance behind the interval comes from {len(few)} of "
                f"{len(base.item_ids)} images, {named}"
            )


def _carried_by(replicated: Replicated) -> list[int]:
    """Return the fewest images that make up most of the jackknife variance, largest first; [] if that takes many."""
    if replicated.student.error <= 1e-9:
        return []
    shares = variance_share(replicated)
    order = np.argsort(-shares)[: max(1, int(_FEW * len(shares)))]
    reached = np.flatnonzero(np.cumsum(shares[order]) > _MOST)
    return [int(i) for i in order[: reached[0] + 1]] if len(reached) else []


DRIFT = Analysis(
    name="drift",
    question=QUESTION,
    needs=lambda encoder: [site.name for site in encoder.sites],
    run=lambda inputs: representation_drift(inputs.base, inputs.others, inputs.baselines),
    required=True,
    presentation=Presentation(
        titles={
            "cka": "Debiased linear CKA",
        },
        figures=(FigureSpec("representation_drift", "visprobe.analyses.drift.drift_figure"),),
        place=110,
        rules=RULES,
    ),
)
