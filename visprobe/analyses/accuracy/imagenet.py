"""Prototype accuracy: how well class prototypes in an encoder's features classify any labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from visprobe.analyses.accuracy.rows import (
    Right,
    accuracy_differences,
    accuracy_rows,
    against_baselines,
    by_class_rows,
    classes_changed,
    sites_that_matter,
)
from visprobe.analyses.accuracy.sentences import RULES
from visprobe.analyses.accuracy.task import Task, check_task, make_task
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import value_rows
from visprobe.analyses.core.refusals import naming
from visprobe.encoders import EMBEDDING
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Bools, Labels
from visprobe.metrics.classifiers.prototypes import ranks_from_support, ranks_leaving_one_out
from visprobe.metrics.intervals.proportions import paired_difference
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result, Row

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

QUESTION = "Can the class of an image be read from the encoder's features, and better than before post-training?"

Ranks = Mapping[str, Mapping[str, Labels]]


def prototype_accuracy(query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None) -> Result:
    """Measure top-1 accuracy of class prototypes at every site, with paired differences between checkpoints.

    Args:
        query: Features of the labelled images to classify, one set per checkpoint; the first is the base.
        support: Features of other labelled images, from which prototypes are computed, for the same checkpoints
            in any order; None for leave-one-out within the query images.

    Returns:
        Rows "top1" at every site, with Wilson intervals, and their differences for each pair of checkpoints, later
        minus earlier, with Newcombe intervals. At the sites that matter, what the language model reads and the
        projector's output, also "top5" (with more than five classes), differences "top1_by_class" whose intervals let
        the images of a class go together, and "projector_cost", top-1 after the projector less that before it on the
        same images. The settings hold chance, classes, protocol, consumed site, images shared by both splits, the
        McNemar p of each difference (with Holm's over the sites) and the classes that changed most.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all checkpoints; if a class has no
            support, or fewer than two images for leave-one-out; if a feature is not finite.

    Source:
        Zero-shot head of "RL makes MLLMs see better than SFT" (2510.16333), appendix E.3.
    Differs from source:
        A prototype never holds the image it is tried on, and is normalised again.
    """
    task = make_task(query, support)
    ranks = _ranked(task)
    right, read = _within(ranks, 1), sites_that_matter(task.base)
    baselines = task.baselines
    rows = list(accuracy_rows(right, "top1", baselines))
    if len(task.names) > 5:
        top5 = {
            name: {site: hits for site, hits in at.items() if site in read} for name, at in _within(ranks, 5).items()
        }
        rows += accuracy_rows(top5, "top5", baselines)
    differences, tests = accuracy_differences(right, "top1", baselines)
    rows += differences
    rows += by_class_rows(right, "top1_by_class", task.labels, read, baselines)
    rows += _projector_costs(right, task)
    settings = {
        **task.settings(),
        "mcnemar": tests,
        "against_baselines": against_baselines(right, "top1", baselines),
        "classes_changed": classes_changed(right, task, read, baselines),
    }
    return Result("imagenet", QUESTION, tuple(rows), settings, tuple(task.warnings()))


def right_at_first(query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None) -> dict[str, dict[str, Bools]]:
    """Return which images each checkpoint puts into the right class by its prototypes.

    Args:
        query: Features of the labelled images to classify, one set per checkpoint.
        support: Features of other labelled images, from which prototypes are computed; None for leave-one-out.

    Returns:
        Bool of shape (n,) by checkpoint and site, in the order of the first set's images.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all checkpoints; if a class has no
            support, or fewer than two images for leave-one-out; if a feature is not finite.
    """
    return _within(_ranked(make_task(query, support)), 1)


def needs_everywhere(encoder: VisionEncoder) -> list[str]:
    """Return every site, and where they exist the class token at the consumed site and the tower's own embedding."""
    sites = [site.name for site in encoder.sites]
    if encoder.has_class_token:
        sites.append(f"{encoder.consumed}:cls")
    return [*sites, EMBEDDING] if encoder.embeds and not _embeds_by_class_token(encoder) else sites


def _embeds_by_class_token(encoder: VisionEncoder) -> bool:
    """Return True if its embedding is the class token that is read, as DINOv2's: after the last norm, no head."""
    family, bare = encoder.family, encoder.projection_hash is None and encoder.head is None
    return family.head is None and bare and family.norm_on_tokens and encoder.consumed == "final_norm"


def _ranked(task: Task) -> Ranks:
    return {features.encoder: _ranks(features, task) for features in task.query}


def _ranks(features: FeatureSet, task: Task) -> dict[str, Labels]:
    found = {}
    for site, array in features.sites.items():
        with naming(features, site, "prototype accuracy"):
            if task.support_labels is None:
                found[site] = ranks_leaving_one_out(array, task.labels)
            else:
                support = task.support[features.encoder].sites[site]
                found[site] = ranks_from_support(array, task.labels, support, task.support_labels)
    return found


def _within(ranks: Ranks, best: int) -> dict[str, dict[str, Bools]]:
    return {name: {site: rank < best for site, rank in sites.items()} for name, sites in ranks.items()}


def _projector_costs(right: Right, task: Task) -> Iterator[Row]:
    costs = {}
    for features in task.query:
        found = right[features.encoder]
        if features.consumed in found and "projected" in found:
            cost, _ = paired_difference(found["projected"], found[features.consumed])
            costs[features.encoder, "projected", "projector_cost"] = cost
    return value_rows(costs, task.baselines)


def _run(inputs: Inputs) -> Result:
    return prototype_accuracy(inputs.all, inputs.support or None)


IMAGENET = Analysis(
    name="imagenet",
    question=QUESTION,
    needs=needs_everywhere,
    run=_run,
    baselines="untrained",
    support=True,
    check=check_task,
    presentation=Presentation(
        titles={
            "top1": "Top-1 accuracy",
            "top5": "Top-5 accuracy",
            "top1_by_class": "Top-1 accuracy, interval over classes",
            "projector_cost": "Top-1 accuracy after the projector less that before it",
        },
        figures=(FigureSpec("prototype_accuracy", "visprobe.analyses.accuracy.imagenet_figure"),),
        place=40,
        rules=RULES,
        columns={"top1": "prototype"},
        drawn_settings=("mcnemar", "against_baselines", "classes_changed"),
    ),
)
