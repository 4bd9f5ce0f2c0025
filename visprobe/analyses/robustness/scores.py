"""Scores of each checkpoint on each changed image: class found or not, or cosine with the unchanged image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visprobe.analyses.accuracy.rows import sites_that_matter
from visprobe.analyses.accuracy.task import Task
from visprobe.analyses.core.analysis import Inputs, Sets
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.refusals import naming
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.classifiers.prototypes import ranks_from_support, ranks_leaving_one_out
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.similarity.cka import replicate_cka, represent

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Scores of one checkpoint at one site.

    Attributes:
        checkpoint: Name of the checkpoint or baseline.
        baseline: True for a baseline.
        site: Name of the site.
        clean: Score of each unchanged image, float64 of shape (n,); None where it is compared with itself.
        changed: Scores of the images by variant, float64 of shape (n,) each.
        cka: CKA with the unchanged images by variant; only for images without classes.
    """

    checkpoint: str
    baseline: bool
    site: str
    clean: Scores | None
    changed: Mapping[str, Scores]
    cka: Mapping[str, Replicated] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Kind of the site: "consumed" or "projected"."""
        return "projected" if self.site == "projected" else "consumed"


def aligned(inputs: Inputs, base: FeatureSet) -> dict[str, dict[str, FeatureSet]]:
    """Return the features of the changed images by variant and checkpoint, rows in the order of `base`.

    Raises:
        DataError: If a variant holds other images, or a value is not finite.
    """
    found: dict[str, dict[str, FeatureSet]] = {}
    for name, sets in inputs.variants.items():
        found[name] = {features.encoder: features for features in align([base, *sets])[1:]}
    return found


def right_scores(inputs: Inputs, task: Task) -> list[Scored]:
    """Score images 1 where prototypes of clean images find their class, else 0."""
    variants = aligned(inputs, task.base)
    found = []
    for features in task.query:
        for site in sites_that_matter(features):
            with naming(features, site, "prototype accuracy of changed images"):
                learned = task.support[features.encoder].sites[site] if task.support else features.sites[site]
                own = features.sites[site]
                changed = {
                    name: _right(task, learned, sets[features.encoder].sites[site]) for name, sets in variants.items()
                }
                found.append(
                    Scored(features.encoder, features.baseline is not None, site, _right(task, learned, own), changed)
                )
    return found


def stability_scores(inputs: Inputs, sets: Sets) -> list[Scored]:
    """Score images by the cosine with their changed copy, both less the mean of the unchanged images."""
    variants = aligned(inputs, sets[0])
    found = []
    for features in sets:
        for site in sites_that_matter(features):
            with naming(features, site, "stability under changes of the images"):
                clean = np.asarray(features.sites[site], np.float64)
                origin, mean = represent(clean), clean.mean(0)
                changed, cka = {}, {}
                for name, copies in variants.items():
                    copy = np.asarray(copies[features.encoder].sites[site], np.float64)
                    changed[name] = _cosines(clean - mean, copy - mean)
                    cka[name] = replicate_cka(origin, represent(copy))
                found.append(Scored(features.encoder, features.baseline is not None, site, None, changed, cka))
    return found


def _right(task: Task, learned: ArrayLike, query: ArrayLike) -> Scores:
    if task.support_labels is None:
        ranks = ranks_leaving_one_out(learned, task.labels, query)
    else:
        ranks = ranks_from_support(query, task.labels, learned, task.support_labels)
    return (ranks < 1).astype(np.float64)


def _cosines(a: Scores, b: Scores) -> Scores:
    products, squares = np.einsum("ij,ij->i", a, b), np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b)
    cosines: Scores = np.divide(products, np.sqrt(squares), out=np.zeros(len(a)), where=squares > 0)
    return cosines.clip(-1, 1)
