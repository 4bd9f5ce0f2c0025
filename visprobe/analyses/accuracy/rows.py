"""Rows of an accuracy: shares, paired differences and tests from the images that each checkpoint gets right."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from visprobe.analyses.accuracy.task import Task
from visprobe.analyses.core.differences import Test, by_key, pairs, tested_differences, value_rows, with_holm
from visprobe.encoders import EMBEDDING
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Bools, Labels
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import FRACTION
from visprobe.metrics.intervals.proportions import paired_difference, proportion
from visprobe.results.result import BaselineKind, Row

Right = Mapping[str, Mapping[str, Bools]]  # right images, bool of shape (n,), by checkpoint and site

_LISTED = 5  # classes listed that gained or lost most


def accuracy_rows(right: Right, measure: str, baselines: Mapping[str, BaselineKind]) -> Iterator[Row]:
    """Yield the share right of each checkpoint and baseline at each site, with Wilson intervals."""
    return value_rows({key: proportion(found) for key, found in by_key(right, measure).items()}, baselines)


def accuracy_differences(right: Right, measure: str, baselines: Collection[str]) -> tuple[list[Row], list[Test]]:
    """Compute paired differences with Newcombe intervals, and McNemar's tests, Holm-adjusted over sites."""
    names = [name for name in right if name not in baselines]
    return tested_differences(by_key(right, measure), names, lambda pair: paired_difference(pair.after, pair.before))


def against_baselines(right: Right, measure: str, baselines: Collection[str]) -> list[dict[str, Any]]:
    """Compare each checkpoint with each baseline over the same images, at every site that both have.

    Returns:
        {"checkpoint", "reference", "site", "measure", "value", "low", "high", "p"}: the paired difference with its
        Newcombe interval, and McNemar's exact p.
    """
    found = []
    for name in (name for name in right if name not in baselines):
        for reference in (one for one in right if one in baselines):
            for pair in pairs(by_key(right, measure), (reference, name)):
                estimate, p = paired_difference(pair.after, pair.before)
                ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                found.append(pair.test(p) | ends | {"p": p})
    return found


def by_class_rows(
    right: Right, measure: str, labels: Labels, sites: Collection[str], baselines: Collection[str]
) -> Iterator[Row]:
    """Yield paired differences with intervals clustered by class: n counts classes."""
    if len(np.unique(labels)) < 2:
        return
    read = {name: {site: at[site] for site in sites if site in at} for name, at in right.items()}
    for pair in pairs(by_key(read, measure), [name for name in right if name not in baselines]):
        change = pair.after.astype(np.float64) - pair.before
        yield pair.row(clustered_mean(change, labels, FRACTION.of_differences, units="classes"))


def classes_changed(
    right: Right, task: Task, sites: Collection[str], baselines: Collection[str]
) -> list[dict[str, Any]]:
    """Return for each descendant and site the classes that gained and lost most against the base.

    Returns:
        {"checkpoint", "site", "gained": [...], "lost": [...]}, the classes as {"class", "n", "difference", "p_holm"};
        "p_holm", of McNemar's test, is adjusted over all classes.
    """
    base, found = task.base.encoder, []
    for name in (name for name in right if name != base and name not in baselines):
        for site in (site for site in sites if site in right[name] and site in right[base]):
            classes = _class_by_class(right[name][site], right[base][site], task)
            classes.sort(key=lambda one: one["difference"])
            lost = [one for one in classes if one["difference"] < 0][:_LISTED]
            gained = [one for one in classes[::-1] if one["difference"] > 0][:_LISTED]
            found.append({"checkpoint": name, "site": site, "gained": gained, "lost": lost})
    return found


def sites_that_matter(features: FeatureSet) -> list[str]:
    """Return the sites of `features` that matter: the consumed one, however pooled, and those after it.

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
