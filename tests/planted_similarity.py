"""Results of similarity and geometry on planted features, for the tests of figures and report."""

from functools import cache

import numpy as np
from baseline_marks import mark

from visprobe.analyses.similarity.geometry import geometry
from visprobe.analyses.similarity.similarity import similarity
from visprobe.features.feature_set import FeatureSet
from visprobe.results.result import Result

SITES = ("block_00", "block_01", "block_02", "projected")


def planted_features(name: str, noise: float, n: int = 60, d: int = 4) -> FeatureSet:
    """The same images at four sites, moved by noise, and the norms of nine tokens each."""
    ids = tuple(f"image-{i:03d}" for i in range(n))
    shared, own = np.random.default_rng(1), np.random.default_rng([2, *name.encode()])
    sites = {}
    for site in SITES:
        x = shared.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + 1
        sites[site] = (x + noise * own.standard_normal((n, d))).astype(np.float32)
    sites["block_02:norms"] = (2 + shared.random((n, 9)) + noise * own.random((n, 9))).astype(np.float32)
    return FeatureSet(name, "val", ids, None, None, sites, "block_02", baseline=mark(name))


def without_norms(features: FeatureSet) -> FeatureSet:
    sites = {site: features.sites[site] for site in SITES}
    return FeatureSet(
        features.encoder,
        features.images,
        features.item_ids,
        None,
        None,
        sites,
        features.consumed,
        baseline=features.baseline,
    )


@cache
def planted_similarity(checkpoints: tuple[str, ...]) -> dict[str, Result]:
    base, *others = (planted_features(name, 0.1 * i) for i, name in enumerate(checkpoints))
    baselines = [planted_features("untrained", 30.0), planted_features(f"{checkpoints[0]} (bfloat16)", 0.003)]
    bare = [without_norms(features) for features in (base, *others, *baselines)]
    count = 1 + len(others)
    return {
        "similarity": similarity(bare[0], bare[1:count], bare[count:], {name: 0.01 for name in checkpoints[1:]}),
        "geometry": geometry(base, others, baselines),
    }
