"""Feature sets with a known answer, for the tests of the analyses."""

import numpy as np
from baseline_marks import mark
from numpy.typing import NDArray

from visprobe.features.feature_set import FeatureSet


def feature_set(
    encoder: str,
    sites: dict[str, NDArray[np.float64]],
    labels: NDArray[np.int64] | None = None,
    classes: tuple[str, ...] | None = None,
    images: str = "val",
    prefix: str = "image",
) -> FeatureSet:
    n = len(next(iter(sites.values())))
    floats = {site: array.astype(np.float32) for site, array in sites.items()}
    ids = tuple(f"{prefix}-{i:04d}" for i in range(n))
    return FeatureSet(encoder, images, ids, labels, classes, floats, consumed="block_02", baseline=mark(encoder))


def reordered(features: FeatureSet, order: NDArray[np.int64]) -> FeatureSet:
    return FeatureSet(
        features.encoder,
        features.images,
        tuple(features.item_ids[i] for i in order),
        None if features.labels is None else features.labels[order],
        features.classes,
        {site: array[order] for site, array in features.sites.items()},
        features.consumed,
        baseline=features.baseline,
    )
