"""Rows of an accuracy: from which images each checkpoint gets right to shares, paired differences and tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.accuracy.task import Labels, Task
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.watch import EMBEDDING
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.intervals.proportions import mcnemar_exact, newcombe_paired, wilson
from visprobe.results.result import Estimate, Role, Row

Bools = NDArray[np.bool_]
Right = Mapping[str, Mapping[str, Bools]]  # checkpoint to site to whether each image is put into its class

_LISTED = 5  # classes that gained or lost most


def accuracy_rows(right: Right, measure: str, floor: Collection[str]) -> Iterator[Row]:
    """Share right of each checkpoint and floor at each site, with Wilson intervals."""
    for checkpoint, sites in right.items():
        role: Role = "floor" if checkpoint in floor else "value"
        for site, found in sites.items():
            hits, n = int(found.sum()), len(found)
            yield Row(checkpoint, site, measure, Estimate(hits / n, *wilson(hits, n), n, "fraction", "Wilson 95 %"),
                      role=role)  # fmt: skip


def difference_rows(right: Right, measure: str, floor: Collection[str]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Paired differences, later minus earlier checkpoint, and McNemar's tests of them.

    Returns:
        The rows, with Newcombe intervals; and for each {"checkpoint", "reference", "site", "measure", "p", "p_holm"},
        "p_holm" adjusted over the sites of the pair.
    """
    rows: list[Row] = []
    tests: list[dict[str, Any]] = []
    for earlier, later in _pairs(right, floor):
        p = []
        for site in (site for site in right[later] if site in right[earlier]):
            estimate, one = paired_difference(right[later][site], right[earlier][site])
            rows.append(Row(later, site, measure, estimate, earlier, "difference"))
            p.append(one)
            tests.append({"checkpoint": later, "reference": earlier, "site": site, "measure": measure, "p": one})
        for test, adjusted in zip(tests[len(tests) - len(p) :], holm(p) if p else (), strict=True):
            test["p_holm"] = float(adjusted)
    return rows, tests


def against_floors(right: Right, measure: str, floor: Collection[str]) -> list[dict[str, Any]]:
    """Each checkpoint against each floor over the same images, at every site that both have.

    Returns:
        {"checkpoint", "reference", "site", "measure", "value", "low", "high", "p"}: the paired difference with its
        Newcombe interval, and McNemar's exact p.
    """
    found = []
    for name in (name for name in right if name not in floor):
        for reference in (one for one in right if one in floor):
            for site in (site for site in right[name] if site in right[reference]):
                estimate, p = paired_difference(right[name][site], right[reference][site])
                ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "p": p}
                found.append({"checkpoint": name, "reference": reference, "site": site, "measure": measure, **ends})
    return found


def paired_difference(a: Bools, b: Bools) -> tuple[Estimate, float]:
    """Share right in `a` minus that in `b` over the same images, both bool of shape (n,), and McNemar's p."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    paired = newcombe_paired(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()))
    return Estimate(*paired, len(a), "fraction", "Newcombe paired 95 %"), mcnemar_exact(only_a, only_b)


def by_class_rows(
    right: Right, measure: str, labels: Labels, sites: Collection[str], floor: Collection[str]
) -> Iterator[Row]:
    """Paired differences whose intervals let the images of a class go together: n counts classes."""
    if len(np.unique(labels)) < 2:
        return
    for earlier, later in _pairs(right, floor):
        for site in (site for site in sites if site in right[later] and site in right[earlier]):
            change = right[later][site].astype(np.float64) - right[earlier][site]
            found = clustered_mean(change, labels, bounds=(-1, 1))
            yield Row(later, site, measure, Estimate(found.value, found.low, found.high, found.clusters, "fraction",
                      "t over classes 95 %"), earlier, "difference")  # fmt: skip


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


def read_sites(features: FeatureSet) -> list[str]:
    """Of the sites of `features` those that matter: what the language model reads, however pooled, and after it.

    The tower's own embedding of an image is among them.
    """
    matter = (features.consumed, "projected", EMBEDDING)
    return [site for site in features.sites if site.partition(":")[0] in matter]


def needs_read(encoder: VisionEncoder) -> list[str]:
    """What is asked of an encoder for accuracy where the language model reads."""
    return [encoder.consumed, "projected"] if encoder.has_projector else [encoder.consumed]


def _pairs(right: Right, floor: Collection[str]) -> Iterator[tuple[str, str]]:
    return combinations([name for name in right if name not in floor], 2)


def _class_by_class(later: Bools, earlier: Bools, task: Task) -> list[dict[str, Any]]:
    found = []
    for number in np.unique(task.labels):
        own = task.labels == number
        estimate, p = paired_difference(later[own], earlier[own])
        found.append({"class": task.names[number], "n": estimate.n, "difference": round(estimate.value, 6), "p": p})
    for one, adjusted in zip(found, holm([one.pop("p") for one in found]), strict=True):
        one["p_holm"] = float(adjusted)
    return found
