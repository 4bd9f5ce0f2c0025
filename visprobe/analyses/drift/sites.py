"""CKA of every site of a descendant with every site of the base: did what the language model reads change its depth?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.core.differences import kinds_of, value_rows
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import naming, refuse_fewer
from visprobe.features.feature_set import FeatureSet, of_tower
from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.estimate import CKA
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.similarity.cka import Representation, replicate_cka, represent
from visprobe.metrics.similarity.cka_map import cka_map, unit_grams
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Row

QUESTION = "Which site of the base is most like what each checkpoint passes on: did its depth shift?"

_IMAGES = 1000  # a map of 30 by 30 sites then takes seconds and 240 MB per checkpoint
_ERROR_RATE = 0.05


class _Depth(NamedTuple):
    """CKA of one consumed site with every tower site of the base."""

    sites: tuple[str, ...]
    values: tuple[Replicated, ...]


def site_maps(base: FeatureSet, others: Sequence[FeatureSet], baselines: Sequence[FeatureSet] = ()) -> Result:
    """Compute the debiased linear CKA between all sites of the base and all sites of each checkpoint.

    Args:
        base: Pooled features at every site under the base, float of shape (n, d_i).
        others: Features of the same images under its descendants.
        baselines: Features of the same images under "untrained" and "<base> (bfloat16)".

    Returns:
        For the site that the language model reads: "own_site_cka" and "best_site_cka", its CKA with the same site
        and with the most similar tower site of the base; "best_minus_own", their paired difference (>= 0; its
        interval is valid for all sites together); "depth_shift" in sites (positive: like a deeper site of the base),
        whose interval holds every site that may be the most similar one. Maps, base downwards, in settings["maps"],
        the base with itself first.

    Raises:
        DataError: If there are fewer than five images, they are not the same for all, or a feature is not finite or
            does not vary.

    Source:
        Kornblith et al. 2019 (1905.00414), section 6: maps between layers. The set of sites that may be the best:
        multiple comparisons with the best, Hsu 1981.
    """
    base, *rest = align([base, *others, *baselines])
    refuse_fewer(base, 5, "CKA with an interval")
    prepared = {site: _represent(base, site) for site in base.sites if of_tower(site)}
    numbers = {
        (features.encoder, base.consumed, measure): estimate
        for features in rest
        for measure, estimate in _estimates(_depth(prepared, features), base.consumed).items()
    }
    rows = tuple(value_rows(numbers, kinds_of(baselines), base.encoder))
    settings = {
        **common_settings(base),
        "sites": list(base.sites),
        "most_similar": _most_similar(rows, list(prepared), base.consumed),
        "maps": _maps(base, rest[: len(others)]),
    }
    return Result("sites", QUESTION, rows, settings)


def _represent(features: FeatureSet, site: str) -> Representation:
    with naming(features, site, "CKA"):
        return represent(features.sites[site])


def _depth(prepared: dict[str, Representation], features: FeatureSet) -> _Depth:
    own = _represent(features, features.consumed)
    with naming(features, features.consumed, "CKA"):
        return _Depth(tuple(prepared), tuple(replicate_cka(origin, own) for origin in prepared.values()))


def _estimates(depth: _Depth, consumed: str) -> dict[str, Estimate]:
    own = depth.values[depth.sites.index(consumed)]
    best = max(depth.values, key=lambda one: one.value)
    return {
        "own_site_cka": own.estimate(CKA),
        "best_site_cka": best.estimate(CKA),
        "best_minus_own": _excess(best, own, len(depth.sites) - 1),
        "depth_shift": _shift(depth, depth.sites.index(consumed)),
    }


def _excess(best: Replicated, own: Replicated, tries: int) -> Estimate:
    excess = (best - own).estimate(CKA.of_differences, 1 - _ERROR_RATE / max(tries, 1))
    return replace(excess, method=f"delete-one jackknife 95 % over {tries} other sites (Bonferroni)")


def _shift(depth: _Depth, own: int) -> Estimate:
    """Return the most similar site's distance from `own`; the interval covers all sites not measurably worse."""
    values = np.array([one.value for one in depth.values])
    best, n = int(values.argmax()), depth.values[0].student.n
    critical = float(stats.t.isf(_ERROR_RATE / max(len(values) - 1, 1), n - 1))
    behind = values[None, :] - values[:, None]  # [i, j]: by how much site j is more similar than site i
    errors = np.array([[(other - one).student.error for other in depth.values] for one in depth.values])
    worse = (behind > critical * errors) & (behind > 1e-11)
    kept = np.flatnonzero(~worse.any(axis=1))
    method = f"sites not measurably less similar than another, 95 % (Bonferroni over {len(values) - 1})"
    return Estimate(float(best - own), float(kept.min() - own), float(kept.max() - own), n, "sites", method)


def _most_similar(rows: Sequence[Row], sites: Sequence[str], consumed: str) -> dict[str, str]:
    own = sites.index(consumed)
    return {row.checkpoint: sites[own + int(row.estimate.value)] for row in rows if row.measure == "depth_shift"}


def _maps(base: FeatureSet, others: Sequence[FeatureSet]) -> dict[str, Any]:
    origin = _grams(base)
    maps = {base.encoder: cka_map(origin, origin)}
    for features in others:
        maps[features.encoder] = cka_map(origin, _grams(features))
    return {name: [[round(float(value), 6) for value in row] for row in table] for name, table in maps.items()}


def _grams(features: FeatureSet) -> Array:
    with naming(features, "a site", "CKA"):
        return unit_grams(list(features.sites.values()))


SITES = Analysis(
    name="sites",
    question=QUESTION,
    needs=lambda encoder: [site.name for site in encoder.sites],
    run=lambda inputs: site_maps(inputs.base, inputs.others, inputs.baselines),
    images=_IMAGES,
    presentation=Presentation(
        titles={
            "own_site_cka": "Debiased linear CKA with the same site of the base",
            "best_site_cka": "Debiased linear CKA with the most similar site of the base",
            "best_minus_own": "Most similar site less same site",
            "depth_shift": "Place of the most similar site, from the same site (positive: deeper)",
        },
        figures=(FigureSpec("site_maps", "visprobe.analyses.drift.sites_figure"),),
        place=150,
        drawn_settings=("maps",),
    ),
)
