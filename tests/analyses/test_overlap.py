from dataclasses import replace

import numpy as np
from planted_features import feature_set

from visprobe.analyses.accuracy.overlap import Overlap, duplicates, overlap, overlap_settings, overlap_warnings
from visprobe.features.feature_set import FeatureSet


def images(prefix: str, contents: tuple[str, ...]) -> FeatureSet:
    sites = {"block_00": np.zeros((len(contents), 2))}
    return replace(feature_set("base", sites, images=prefix, prefix=prefix), contents=contents)


def test_copies_are_found_by_content_whatever_they_are_called() -> None:
    query, support = images("val", ("a", "b", "a", "c")), images("train", ("x", "a", "c"))
    found = overlap(query, support)
    ids, of = query.item_ids, support.item_ids
    assert found == Overlap(3, ((ids[0], of[1]), (ids[2], of[1]), (ids[3], of[2])))
    assert overlap_settings(found)["overlap"]["images"] == 3
    assert overlap_warnings(found, query, support)[0].startswith("3 of 4 images of val are in train too")


def test_none_shared_is_said_as_nought_and_not_known_as_none() -> None:
    query, support = images("val", ("a", "b")), images("train", ("c", "d"))
    assert overlap(query, support) == Overlap(0)
    assert overlap_settings(overlap(query, support)) == {"overlap": {"images": 0, "examples": []}}
    unknown = overlap(replace(query, contents=()), support)
    assert unknown == Overlap(None)
    assert not overlap_warnings(unknown, query, support) and not overlap_warnings(Overlap(0), query, support)


def test_copies_within_a_set_are_those_after_the_first() -> None:
    one = images("val", ("a", "b", "a", "a"))
    found, ids = duplicates(one), one.item_ids
    assert found == Overlap(2, ((ids[2], ids[0]), (ids[3], ids[0])))
    assert overlap_warnings(found, one, one)[0].startswith("2 of 4 images of val are there twice")
    assert duplicates(images("val", ("a", "b"))) == Overlap(0)
    assert duplicates(images("val", ())) == Overlap(None)
