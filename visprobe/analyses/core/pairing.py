"""Alignment of feature sets to one order of images, by item id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet, of_tower, parts_of


def align(sets: Sequence[FeatureSet]) -> list[FeatureSet]:
    """Reorder the rows of all sets to the order of the first.

    Args:
        sets: Features of the same images under different encoders.

    Returns:
        Sets with rows (and labels) in the order of the first set's item ids.

    Raises:
        DataError: If a set repeats an id, has other images than the first, or holds NaN or infinity.
    """
    for features in sets:
        _check_finite(features)
    return [sets[0], *(_reorder(features, sets[0]) for features in sets[1:])]


def common_settings(base: FeatureSet) -> dict[str, Any]:
    """Return the settings that every result on images has; `Result` has properties that read them."""
    return {"base": base.encoder, "images": base.images, "n": len(base.item_ids), "consumed": base.consumed}


def same_tower(base: FeatureSet, other: FeatureSet) -> bool:
    """Return True if every site before the connector that both have, one at least, has bit-equal features."""
    sites = [site for site in base.sites if of_tower(site) and site in other.sites]
    return bool(sites) and all(np.array_equal(base.sites[site], other.sites[site]) for site in sites)


def _reorder(features: FeatureSet, first: FeatureSet) -> FeatureSet:
    if features.item_ids == first.item_ids:
        return features
    position = {item: row for row, item in enumerate(features.item_ids)}
    different = position.keys() ^ set(first.item_ids)
    if different:
        raise DataError(
            f"{features.encoder} and {first.encoder} were not given the same images of {first.images}: "
            f"{len(different)} differ, {min(different)} among them",
            hint="Extract the features of all checkpoints from the same image set in one run.",
        )
    order = np.array([position[item] for item in first.item_ids])
    labels = None if features.labels is None else features.labels[order]
    sites = {site: array[order] for site, array in features.sites.items()}
    return replace(features, item_ids=first.item_ids, labels=labels, sites=sites)


def _check_finite(features: FeatureSet) -> None:
    if len(set(features.item_ids)) != len(features.item_ids):
        raise DataError(
            f"{features.images} lists an image id more than once",
            hint="Give every image its own id; two images of one id cannot be paired between checkpoints.",
        )
    for site in features.sites:
        parts = parts_of(features.sites, site)  # one shard after another: the whole may not fit into memory
        bad = np.flatnonzero(~np.concatenate([np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in parts]))
        if bad.size:
            raise DataError(
                f"{features.encoder}: the features of {features.images} at {site} are not finite for "
                f"{bad.size} of {len(features.item_ids)} images, first {features.item_ids[bad[0]]}",
                hint="Extract in float32; if it stays, the checkpoint holds NaN or overflows on this image.",
            )
