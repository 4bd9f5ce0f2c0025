"""Results of align and words on planted features, for the tests of figures and report."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from baseline_marks import mark
from planted_similarity import planted_features, without_norms

from visprobe.analyses.language.align import alignment
from visprobe.analyses.language.words import words_of_patches
from visprobe.encoders.text.words import Words
from visprobe.features.feature_set import FeatureSet
from visprobe.features.text import TextFeatures
from visprobe.results.result import Result


def with_tokens(name: str, noise: float, n: int = 24) -> FeatureSet:
    shared, own = np.random.default_rng(1), np.random.default_rng([2, *name.encode()])
    tokens = shared.standard_normal((n, 9, 4)) + 1 + noise * own.standard_normal((n, 9, 4))
    ids = tuple(f"image-{i:03d}" for i in range(n))
    return FeatureSet(
        name, "val", ids, None, None, {"projected:tokens": tokens.astype(np.float32)}, "block_02", baseline=mark(name)
    )


@cache
def planted_language(checkpoints: tuple[str, ...]) -> dict[str, Result]:
    base, *others = (without_norms(planted_features(name, 0.3 * i)) for i, name in enumerate(checkpoints))
    baseline = without_norms(planted_features("untrained", 30.0))
    layers = {f"layer_{i:02d}": base.sites["block_01"] + i * baseline.sites["block_00"] / 30 for i in range(3)}
    captions = {item: f"caption {item}" for item in base.item_ids}
    text = [TextFeatures("lm", layers, "", 0)]
    aligned = alignment(base, others, [baseline], captions, lambda told: text)
    table = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    words = Words(table, 1.0, "embed_tokens.weight", None, 0)
    first, *rest = (with_tokens(name, 0.2 * i) for i, name in enumerate(checkpoints))
    far = with_tokens("untrained", 9.0)
    found = words_of_patches(first, rest, [far], dict.fromkeys((*checkpoints, "untrained"), words))
    picture = {**found.settings["picture"], "grid": [3, 3], "source": None}
    return {"align": aligned, "words": replace(found, settings={**found.settings, "picture": picture})}
