"""Rows of an accuracy: from which images each checkpoint gets right to shares, paired differences and tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from visprobe.analyses.accuracy.task import Task
from visprobe.analyses.core.differences import Test, by_key, pairs, tested_differences, value_rows, with_holm
from visprobe.encoders.watch import EMBEDDING
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Bools, Labels
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import FRACTION
from visprobe.metrics.intervals.proportions import paired_difference, proportion
from visprobe.results.result import Row

Right = Mapping[str, Mapping[str, Bools]]  # checkpoint to site to whether each image is put into its class

_LISTED = 5  # classes that gained or lost most


def accuracy_rows(right: Right, measure: str, floor: Collection[str]) -> Iterator[Row]:
    """Share right of each checkpoint and floor at each site, with Wilson intervals."""
    return value_rows({key: proportion(found) for key, found in by_key(right, measure).items()}, floor)


def accuracy_differences(right: Right, measure: str, floor: Collection[str]) -> tuple[list[Row], list[Test]]:
    """Paired differences with Newcombe intervals, and McNemar's tests, as `tested_differences` gives them."""
    names = [name for name in right if name not in floor]
    return tested_differences(by_key(right, measure), names, lambda pair: paired_difference(pair.after, pair.before))


def against_floors(right: Right, measure: str, floor: Collection[str]) -> list[dict[str, Any]]:
    """Each checkpoint against each floor over the same images, at every site that both have.

    Returns:
        {"checkpoint", "reference", "site", "measure", "value", "low", "high", "p"}: the paired difference with its
        Newcombe interval, and McNemar's exact p.
    """
    found = []
    for name in (name for name in right if name not in floor):
        for reference in (one for one in right if one in floor):
            for pair in pairs(by_key(right, measure), (reference, name)):
                estimate, p = paired_difference(pair.after, pair.before)
                ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                found.append(pair.test(p) | ends | {"p": p})
    return found


def by_class_rows(
    right: Right, measure: str, labels: Labels, sites: Collection[str], floor: Collection[str]
) -> Iterator[Row]:
    """Paired differences whose intervals let the images of a class go together: n counts classes."""
    if len(np.unique(labels)) < 2:
        return
    read = {name: {site: at[site] for site in sites if site in at} for name, at in right.items()}
    for pair in pairs(by_key(read, measure), [name for name in right if name not in floor]):
        change = pair.after.astype(np.float64) - pair.before
        yield pair.row(clustered_mean(change, labels, FRACTION.of_differences, units="classes"))


def classes_changed(right: Right, task: Task, sites: Collection[str], floor: Collection[str]) -> list[dict[str, Any]]:
    """For each descendant and site the classes that gained and lost most against the base, with McNemar's p.

    Returns:
        {"checkpoint", "site", "gained": [...], "lost": [...]}, the classes as {"class", "n", "difference", "p_holm"};
        "p_holm" is adjusted over all classes.
    """
    base, found = task.base.encoder, []
    for name in (name for name in right if name != base and name not in floor):
        for site in (site for site in sites if site in right[name] and site in right[base]):
            classes = _class_by_class(right[name][site], right[base][site], task)
            classes.sort(key=lambda one: one["difference"])
            lost = [one for one in classes if one["difference"] < 0][:_LISTED]
            gained = [one for one in classes[::-1] if one["difference"] > 0][:_LISTED]
            found.append({"checkpoint": name, "site": site, "gained": gained, "lost": lost})
    return found


def sites_that_matter(features: FeatureSet) -> list[str]:
    """Of the sites of `features` those that matter: what the language model reads, however pooled, and after it.

    The tower's own embedding of an image is among them.
    """
    matter = (features.consumed, "projected", EMBEDDING)
    return [site for site in features.sites if site.partition(":")[0] in matter]


def _class_by_class(later: Bools, earlier: Bools, task: Task) -> list[dict[str, Any]]:
    found = []
    for number in np.unique(task.labels):
        own = task.labels == number
        estimate, p = paired_difference(later[own], earlier[own])
        found.append({"class": task.names[number], "n": estimate.n, "difference": round(estimate.value, 6), "p": p})
    with_holm(found, lambda one: None)
    return [{key: value for key, value in one.items() if key != "p"} for one in found]
