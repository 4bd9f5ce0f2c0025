"""k-nearest-neighbour accuracy of an encoder's features."""

from __future__ import annotations

from collections.abc import Sequence

from visprobe.analyses.accuracy.imagenet import needs_everywhere
from visprobe.analyses.accuracy.rows import accuracy_differences, accuracy_rows, sites_that_matter
from visprobe.analyses.accuracy.task import Task, check_task, make_task
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.refusals import naming
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Bools
from visprobe.metrics.classifiers.knn import KS, knn_classes, knn_classes_leaving_one_out
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.read_site import WHERE_READ
from visprobe.results.result import Result, Row

QUESTION = "Do the images that an encoder finds most similar show the same class, and more often than before?"
CURVE = 20  # neighbours at sites where only one k is tried
TEMPERATURE = 0.07
MOST = 5 * 10**9  # pairs of images: beyond, a search takes minutes per site, and only the consumed ones are searched

Found = dict[int, dict[str, dict[str, Bools]]]  # right images, bool of shape (n,), by k, checkpoint and site


def knn_accuracy(query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None) -> Result:
    """Measure top-1 accuracy of a vote of the k most similar images, weighted by exp(cosine / 0.07).

    Args:
        query: Features of the labelled images to classify, one set per checkpoint; the first is the base.
        support: Features of other labelled images, which are searched, for the same checkpoints in any order; None to
            search all other query images.

    Returns:
        Rows "knn_10" to "knn_200" where the language model reads and after the projector, "knn_20" at every site, with
        Wilson intervals; differences for each pair of checkpoints with Newcombe intervals, McNemar's p in the
        settings (with Holm's over the sites). A k that the support has too few images for is left out with a warning.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all; if fewer than ten are searched, or a
            feature is zero.

    Source:
        Wu et al. 2018 (1805.01978), section 3.4; k and temperature of DINO (2104.14294), appendix F.4.
    """
    task = make_task(query, support)
    pool = len(task.labels) - 1 if task.support_labels is None else len(task.support_labels)
    ks = [k for k in KS if k <= pool]
    if not ks:
        raise DataError(f"{task.base.images}: {pool} images to search for {KS[0]}", hint="Give more images.")
    everywhere = CURVE in ks and pool * len(task.labels) <= MOST
    found = _searched(task, ks, everywhere)
    rows: list[Row] = []
    tests = []
    for k, right in found.items():
        rows += accuracy_rows(right, f"knn_{k}", task.baselines)
    for k, right in found.items():
        differences, p = accuracy_differences(right, f"knn_{k}", task.baselines)
        rows += differences
        tests += p
    settings = {**task.settings(), "mcnemar": tests, "k": ks, "temperature": TEMPERATURE}
    return Result("knn", QUESTION, tuple(rows), settings, (*task.warnings(), *_left_out(ks, pool, everywhere)))


def _left_out(ks: Sequence[int], pool: int, everywhere: bool) -> list[str]:
    said = []
    if lacking := [k for k in KS if k not in ks]:
        said.append(f"k = {', '.join(map(str, lacking))} left out: there are {pool} images to search")
    if CURVE in ks and not everywhere:
        said.append(f"kNN only {WHERE_READ} and after the projector: the search is too long elsewhere")
    return said


def _searched(task: Task, ks: Sequence[int], everywhere: bool) -> Found:
    found: Found = {k: {features.encoder: {} for features in task.query} for k in ks}
    read = sites_that_matter(task.base)
    for features in task.query:
        for site in features.sites if everywhere else read:
            wanted = ks if site in read else [CURVE]
            for k, right in _right(features, site, task, wanted).items():
                found[k][features.encoder][site] = right
    return found


def _right(features: FeatureSet, site: str, task: Task, ks: Sequence[int]) -> dict[int, Bools]:
    with naming(features, site, "kNN"):
        if task.support_labels is None:
            votes = knn_classes_leaving_one_out(features.sites[site], task.labels, ks, TEMPERATURE)
        else:
            support = task.support[features.encoder].sites[site]
            votes = knn_classes(features.sites[site], support, task.support_labels, ks, TEMPERATURE)
    return {k: vote == task.labels for k, vote in votes.items()}


def _run(inputs: Inputs) -> Result:
    return knn_accuracy(inputs.all, inputs.support or None)


KNN = Analysis(
    name="knn",
    question=QUESTION,
    needs=needs_everywhere,
    run=_run,
    baselines="untrained",
    support=True,
    check=check_task,
    presentation=Presentation(
        titles={f"knn_{k}": f"kNN accuracy (k = {k})" for k in KS},
        figures=(FigureSpec("knn_accuracy", "visprobe.analyses.accuracy.knn_figure"),),
        place=70,
        columns={"knn_20": "kNN"},
        drawn_settings=("mcnemar",),
    ),
)
