"""Published ImageNet protocol beside the same without its leak of the test images."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from visprobe.analyses.accuracy.task import Task, check_task, make_task
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import value_rows
from visprobe.analyses.core.refusals import naming
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import read_sites
from visprobe.metrics.arrays import Array, Bools, Labels
from visprobe.metrics.classifiers.label_draws import label_draws
from visprobe.metrics.classifiers.logistic import logistic_path
from visprobe.metrics.classifiers.select_c import AtBoundary, select_c
from visprobe.metrics.intervals.proportions import paired_difference, proportion
from visprobe.results.presentation import Presentation
from visprobe.results.result import BaselineKind, Estimate, Result, Row

QUESTION = "What accuracy does the published protocol give, and how much of it comes from the test images themselves?"
CS = (0.01, 0.03, 0.1, 0.316, 1.0, 3.16)
FAST = 50  # training images per class
_CHUNK = 4096


@dataclass(frozen=True)
class _Both:
    """Images that a protocol gets right as published, and without a look at them; bool of shape (n,) each.

    Attributes:
        published: With the look.
        honest: Without.
        c: Inverse penalty that each of the two chose; None for prototypes.
    """

    published: Bools
    honest: Bools
    c: tuple[float, float] | None = None


def paper_protocol(query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None) -> Result:
    """Compute the published ImageNet numbers with their leak, beside the same protocols without it.

    - "prototype" ("Faster"): class means of the very images that are classified, not normalised again; honest: each
      image is taken out of the mean of its class. With more than five classes also "prototype_top5", the script's
      top-5.
    - "fast": logistic regression on 50 training images per class, C of 0.01 to 3.16 chosen on the test images; honest:
      C chosen on a held-out fifth of the training images.
    - "slow": as "fast" with all training images, where a class has more than 50.

    Args:
        query: Features of the labelled images to classify, one set per checkpoint.
        support: Features of the training images; None leaves the regressions out.

    Returns:
        Rows "paper_<protocol>" and "honest_<protocol>" with Wilson intervals, and "leak_<protocol>", the first less the
        second on the same images, with a Newcombe interval. For the regressions also "paper_<protocol>_c" and
        "honest_<protocol>_c", the C that was chosen.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all checkpoints, or a class has too few.

    Source:
        "RL makes MLLMs see better than SFT" (2510.16333), appendix E.3, and its script eval_vit/eval_imagenet.py.
    Differs from source:
        The 50 images per class are another random draw. Logistic regression is run to convergence, not 1000 steps.
    """
    task = make_task(query, support)
    rows: list[Row] = []
    for features in task.query:
        for site in features.sites:
            with naming(features, site, "the published protocol"):
                found = dict(_protocols(features, site, task))
            for name, both in found.items():
                rows += _rows(features.encoder, site, name, both, task.baselines)
    settings = {**task.settings(), "protocol": "as published", "c": list(CS), "per_class_fast": FAST}
    return Result("paper_protocol", QUESTION, tuple(rows), settings, (*task.warnings(), *_lacking(task)))


def _lacking(task: Task) -> list[str]:
    if task.support_labels is None:
        return ["no train split: only prototypes can be had"]
    least = int(np.bincount(task.support_labels).min())
    return [f'"fast" with {least} training images per class: a class has no more'] if least < FAST else []


def _protocols(features: FeatureSet, site: str, task: Task) -> Iterator[tuple[str, _Both]]:
    rows = _units(features.sites[site])
    best = _prototypes(rows, task.labels)
    yield "prototype", best[1]
    if len(task.names) > 5:
        yield "prototype_top5", best[5]
    if task.support_labels is None:
        return
    learned, labels = _units(task.support[features.encoder].sites[site]), task.support_labels
    counts = np.bincount(labels)
    size = min(FAST, int(counts.min()))
    draw = label_draws(labels, [size], 1)[size][0]
    if size > 1:
        yield "fast", _regression(rows, task.labels, learned[draw], labels[draw])
    if counts.max() > FAST:
        yield "slow", _regression(rows, task.labels, learned, labels)


def _units(features: ArrayLike) -> NDArray[np.float32]:
    rows = np.asarray(features, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("a feature is zero")
    units: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return units


def _prototypes(rows: NDArray[np.float32], labels: Labels) -> dict[int, _Both]:
    """Classify by class means that contain the image, and with it taken out of its own class's mean.

    Returns:
        Images whose class is the best, and whose class is among the best five.
    """
    units, counts = rows.astype(np.float64), np.bincount(labels)
    sums = np.zeros((len(counts), units.shape[1]))
    np.add.at(sums, labels, units)
    published, honest = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        own, every = labels[part], np.arange(len(labels[part]))
        scores = units[part] @ (sums / np.maximum(counts, 1)[:, None]).T
        published[part] = _ranks(scores, own)
        # f·f is 1. A class of one image has no mean without it and cannot be found.
        total, others = scores[every, own] * counts[own], counts[own] - 1
        scores[every, own] = np.divide(total - 1, others, out=np.full(len(own), -np.inf), where=others > 0)
        honest[part] = _ranks(scores, own)
    return {best: _Both(published < best, honest < best) for best in (1, 5)}


def _ranks(scores: Array, own: Labels) -> Labels:
    """Count the classes before an image's own; of equal scores the class that is named first is before."""
    mine = scores[np.arange(len(own)), own][:, None]
    before = (scores > mine) | ((scores == mine) & (np.arange(scores.shape[1]) < own[:, None]))
    ranks: Labels = before.sum(1)
    return ranks


def _regression(rows: NDArray[np.float32], labels: Labels, learned: NDArray[np.float32], classes: Labels) -> _Both:
    path = logistic_path(learned, classes, CS)
    right = [fit.classes(rows) == labels for fit in path]
    best = max(range(len(path)), key=lambda k: int(right[k].sum()))  # of equally good ones the smallest C
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore", AtBoundary)  # the grid is the published one
        fit = select_c(learned, classes, CS).fit
    return _Both(right[best], fit.classes(rows) == labels, (path[best].c, fit.c))


def _rows(name: str, site: str, protocol: str, both: _Both, baselines: Mapping[str, BaselineKind]) -> Iterator[Row]:
    found = {
        (name, site, f"paper_{protocol}"): proportion(both.published),
        (name, site, f"honest_{protocol}"): proportion(both.honest),
        (name, site, f"leak_{protocol}"): paired_difference(both.published, both.honest)[0],
    }
    if both.c is not None:
        for kind, c in zip(("paper", "honest"), both.c, strict=True):
            found[name, site, f"{kind}_{protocol}_c"] = Estimate.exact(c, len(both.published), "C")
    return value_rows(found, baselines)


def _run(inputs: Inputs) -> Result:
    return paper_protocol(inputs.all, inputs.support or None)


PAPER_PROTOCOL = Analysis(
    name="paper_protocol",
    question=QUESTION,
    needs=read_sites,
    run=_run,
    baselines="untrained",
    support=True,
    check=check_task,
    presentation=Presentation(
        titles={
            **{
                f"{kind}_{name}_c": f"C of the {said} {name} probe"
                for name in ("fast", "slow")
                for kind, said in (("paper", "published"), ("honest", "honest"))
            },
            **{
                f"{kind}_{name}": f"{title}{said}"
                for name, title in {
                    "prototype": "Prototypes",
                    "prototype_top5": "Prototypes, top-5",
                    "fast": "Probe on 50 images per class",
                    "slow": "Probe on all training images",
                }.items()
                for kind, said in {
                    "paper": ", as published",
                    "honest": ", without a look at the test images",
                    "leak": ": size of the leak",
                }.items()
            },
        },
        place=74,
        columns={
            **{
                f"{kind}_{name}": f"{name}, {said}"
                for name in ("prototype", "fast", "slow")
                for kind, said in (("paper", "published"), ("honest", "honest"), ("leak", "leak"))
            },
            "paper_prototype_top5": "prototype top-5, published",
        },
        apart=True,
    ),
)
