"""Test images that are in the training split too, byte for byte, and so test nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visprobe.features.feature_set import FeatureSet

EXAMPLES = 5


@dataclass(frozen=True)
class Overlap:
    """Images that two sets share.

    Attributes:
        count: Number of query images with the content of a support image; None where contents are not known.
        examples: Some of them with the support image that they equal: (query id, support id).
    """

    count: int | None
    examples: tuple[tuple[str, str], ...] = ()


def overlap(query: FeatureSet, support: FeatureSet) -> Overlap:
    """Find query images with exactly the bytes of a support image.

    Args:
        query: Features of the test images.
        support: Features of the training images.
    """
    if not query.contents or not support.contents:
        return Overlap(None)
    known = dict(zip(support.contents, support.item_ids, strict=True))
    pairs = zip(query.item_ids, query.contents, strict=True)
    shared = [(item, known[content]) for item, content in pairs if content in known]
    return Overlap(len(shared), tuple(shared[:EXAMPLES]))


def duplicates(features: FeatureSet) -> Overlap:
    """Find images with exactly the bytes of an earlier one in the set: leaving one out leaves its copy in."""
    if not features.contents:
        return Overlap(None)
    first: dict[str, str] = {}
    pairs = zip(features.item_ids, features.contents, strict=True)
    shared = [(item, first[content]) for item, content in pairs if first.setdefault(content, item) != item]
    return Overlap(len(shared), tuple(shared[:EXAMPLES]))


def overlap_settings(found: Overlap) -> dict[str, Any]:
    """Return the settings entry: {"overlap": {"images": 3, "examples": [["val/a.png", "train/b.png"]]}}."""
    return {"overlap": {"images": found.count, "examples": [list(pair) for pair in found.examples]}}


def overlap_warnings(found: Overlap, query: FeatureSet, support: FeatureSet) -> tuple[str, ...]:
    """Return a warning where images are shared, else nothing."""
    if not found.count:
        return ()
    first, copy = found.examples[0]
    where = "there twice" if query is support else f"in {support.images} too"
    return (
        f"{found.count} of {len(query.item_ids)} images of {query.images} are {where}, byte for byte "
        f"({first} is {copy}): what is learned there has seen them, and accuracy is too high",
    )
