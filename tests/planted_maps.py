"""Results on random features of the analyses of heads, sites, images and tokens, for tests of figures and report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from baseline_marks import mark

from visprobe.analyses.drift.heads import head_drift
from visprobe.analyses.drift.images import image_changes
from visprobe.analyses.drift.sites import site_maps
from visprobe.analyses.drift.tokens import token_changes
from visprobe.features.feature_set import FeatureSet
from visprobe.results.result import Result

IMAGES, BLOCKS, WIDTH, GRID = 80, 3, 8, (4, 5)


def planted_maps(checkpoints: tuple[str, ...]) -> dict[str, Result]:
    """Each descendant at half the distance of the one before; the baselines far beyond and close by."""
    base, *others = checkpoints
    noise = {name: 0.4 / 2**i for i, name in enumerate(others)}
    sets = [_features(base, 0.0), *(_features(name, size) for name, size in noise.items())]
    baselines = [_features("untrained", 50.0), _features(f"{base} (bfloat16)", 1e-3)]
    pooled = [only(one, ("block_", "projected")) for one in (*sets, *baselines)]
    heads = [only(one, ("heads_",)) for one in (*sets, *baselines)]
    count = len(checkpoints)
    return {
        "heads": head_drift(heads[0], heads[1:count], heads[count:], 2),
        "sites": site_maps(pooled[0], pooled[1:count], pooled[count:]),
        "images": image_changes(pooled[0], pooled[1:count], pooled[count:]),
        "tokens": token_changes(sets[0], sets[1:], baselines, GRID),
    }


def only(features: FeatureSet, prefixes: tuple[str, ...]) -> FeatureSet:
    kept = {k: v for k, v in features.sites.items() if k.startswith(prefixes) and not k.endswith(":tokens")}
    return replace(features, sites=kept)


def _features(name: str, noise: float) -> FeatureSet:
    """Three blocks that build on each other; the images of class "b" move four times as far as those of "a"."""
    shared, own = np.random.default_rng(0), np.random.default_rng([len(name), int(noise * 1e4)])
    labels = np.arange(IMAGES) % 2
    size = noise * np.where(labels, 2.0, 0.5)
    sites: dict[str, np.ndarray] = {}
    state = np.zeros((IMAGES, WIDTH))
    for site in (*(f"block_{i:02d}" for i in range(BLOCKS)), "projected"):
        state = state + shared.standard_normal((IMAGES, WIDTH))
        sites[site] = state + size[:, None] * own.standard_normal((IMAGES, WIDTH))
    for i in range(1, BLOCKS):
        heads = shared.standard_normal((IMAGES, WIDTH))
        sites[f"heads_{i:02d}"] = heads + size[:, None] * own.standard_normal((IMAGES, WIDTH))
    tokens = (IMAGES, GRID[0] * GRID[1], WIDTH)
    sites["block_02:tokens"] = shared.standard_normal(tokens) + noise * own.standard_normal(tokens)
    ids = tuple(f"image-{i:04d}" for i in range(IMAGES))
    floats = {site: array.astype(np.float32) for site, array in sites.items()}
    return FeatureSet(name, "val", ids, labels, ("a", "b"), floats, "block_02", baseline=mark(name))
