"""Images of the test split that are in the training split too, byte for byte: what was learned from them is no test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from visprobe.features.feature_set import FeatureSet

EXAMPLES = 5


@dataclass(frozen=True)
class Overlap:
    """How far two sets of images share files.

    Attributes:
        count: How many query images have the content of a support image; None where contents are not known.
        examples: Some of them, each with the support image that it equals: (query id, support id).
    """

    count: int | None
    examples: tuple[tuple[str, str], ...] = ()


def overlap(query: FeatureSet, support: FeatureSet) -> Overlap:
    """Which query images have exactly the bytes of a support image.

    Args:
        query: Features of the images that are tested.
        support: Features of the images that are learned from.
    """
    if not query.contents or not support.contents:
        return Overlap(None)
    known = dict(zip(support.contents, support.item_ids, strict=True))
    pairs = zip(query.item_ids, query.contents, strict=True)
    shared = [(item, known[content]) for item, content in pairs if content in known]
    return Overlap(len(shared), tuple(shared[:EXAMPLES]))


def duplicates(features: FeatureSet) -> Overlap:
    """Which images of one set have exactly the bytes of an earlier one of it: leaving one out leaves its copy in."""
    if not features.contents:
        return Overlap(None)
    first: dict[str, str] = {}
    pairs = zip(features.item_ids, features.contents, strict=True)
    shared = [(item, first[content]) for item, content in pairs if first.setdefault(content, item) != item]
    return Overlap(len(shared), tuple(shared[:EXAMPLES]))


def overlap_settings(found: Overlap) -> dict[str, Any]:
    """The entry of a result's settings: {"overlap": {"images": 3, "examples": [["val/a.png", "train/b.png"]]}}."""
    return {"overlap": {"images": found.count, "examples": [list(pair) for pair in found.examples]}}


def overlap_warnings(found: Overlap, query: FeatureSet, support: FeatureSet) -> tuple[str, ...]:
    """What a reader must know: one sentence where images are shared, else nothing."""
    if not found.count:
        return ()
    first, copy = found.examples[0]
    where = "there twice" if query is support else f"in {support.images} too"
    return (
        f"{found.count} of {len(query.item_ids)} images of {query.images} are {where}, byte for byte "
        f"({first} is {copy}): what is learned there has seen them, and accuracy is too high",
    )
