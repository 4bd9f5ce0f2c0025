"""Does the encoder see better? Accuracy of class prototypes in its features, on any labelled image set."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.analysis import Analysis, Inputs
from visprobe.analyses.pairing import align
from visprobe.analyses.result import Estimate, Result, Role, Row
from visprobe.data.image_set import ImageSet
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals import mcnemar_exact, newcombe_paired, wilson
from visprobe.metrics.prototypes import ranks_from_support, ranks_leaving_one_out

QUESTION = "Can the class of an image be read from the encoder's features, and better than before post-training?"

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class _Task:
    """What is to be told apart: labels renumbered to the classes that have a prototype."""

    names: tuple[str, ...]
    labels: Labels
    support: dict[str, FeatureSet]
    support_labels: Labels | None


def prototype_accuracy(
    query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None, floor: Collection[str] = ()
) -> Result:
    """Top-1 and top-5 accuracy of class prototypes at every site, with paired differences between checkpoints.

    Args:
        query: Features of the labelled images to classify, one set per checkpoint; the first is the base.
        support: Features of other labelled images, from which the prototypes are made, for the same checkpoints
            in any order; None for leave-one-out within the query images.
        floor: Names of the sets that are floors ("untrained"): they get no differences.

    Returns:
        Rows "top1" and, with more than five classes, "top5": fractions with Wilson intervals. Difference rows of
        "top1" for each pair of checkpoints, later minus earlier, with Newcombe intervals. The settings hold
        chance, classes, protocol, consumed site and the McNemar p of each difference.

    Raises:
        DataError: If images are unlabelled, of one class, or not the same for all checkpoints; if a class has no
            support, or fewer than two images for leave-one-out; if a feature is not finite.

    Source:
        Zero-shot head of "RL makes MLLMs see better than SFT" (2510.16333), appendix E.3.
    Differs from source:
        A prototype never holds the image it is tried on, and is normalised again.
    """
    query, task, ranks = _ranked(query, support)
    compared = [features.encoder for features in query if features.encoder not in floor]
    rows = list(_accuracies(ranks, floor, len(task.names)))
    tests: list[dict[str, Any]] = []
    for earlier, later in combinations(compared, 2):
        for site in (site for site in ranks[later] if site in ranks[earlier]):
            row, p = _difference(ranks, later, earlier, site)
            rows.append(row)
            tests.append({"checkpoint": later, "reference": earlier, "site": site, "measure": "top1", "p": p})
    settings = _settings(query[0], task) | {"mcnemar": tests}
    return Result("imagenet", QUESTION, tuple(rows), settings, tuple(_warnings(query, task)))


def right_at_first(
    query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None
) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Which images each checkpoint puts into the right class, as `prototype_accuracy` counts them.

    Args:
        query: As `prototype_accuracy`.
        support: As `prototype_accuracy`.

    Returns:
        Checkpoint to site to bool of shape (n,), in the order of the first set's images.

    Raises:
        DataError: As `prototype_accuracy`.
    """
    _, _, ranks = _ranked(query, support)
    return {name: {site: rank < 1 for site, rank in sites.items()} for name, sites in ranks.items()}


def paired_difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[Estimate, float]:
    """Share right in `a` minus that in `b` over the same images, both bool of shape (n,), and McNemar's p."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    paired = newcombe_paired(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()))
    return Estimate(*paired, len(a), "fraction", "Newcombe paired 95 %"), mcnemar_exact(only_a, only_b)


def _ranked(
    query: Sequence[FeatureSet], support: Sequence[FeatureSet] | None
) -> tuple[list[FeatureSet], _Task, dict[str, dict[str, Labels]]]:
    query = align(query)
    task = _leave_one_out(query) if support is None else _disjoint(query, align(support))
    return query, task, {features.encoder: _ranks(features, task) for features in query}


def _ranks(features: FeatureSet, task: _Task) -> dict[str, Labels]:
    if task.support_labels is None:
        return {site: ranks_leaving_one_out(array, task.labels) for site, array in features.sites.items()}
    support = task.support[features.encoder].sites
    return {
        site: ranks_from_support(array, task.labels, support[site], task.support_labels)
        for site, array in features.sites.items()
    }


def _accuracies(ranks: dict[str, dict[str, Labels]], floor: Collection[str], classes: int) -> Iterator[Row]:
    for checkpoint, sites in ranks.items():
        role: Role = "floor" if checkpoint in floor else "value"
        for site, rank in sites.items():
            for best in (1, 5) if classes > 5 else (1,):
                right, n = int((rank < best).sum()), len(rank)
                estimate = Estimate(right / n, *wilson(right, n), n, "fraction", "Wilson 95 %")
                yield Row(checkpoint, site, f"top{best}", estimate, role=role)


def _difference(ranks: dict[str, dict[str, Labels]], later: str, earlier: str, site: str) -> tuple[Row, float]:
    estimate, p = paired_difference(ranks[later][site] < 1, ranks[earlier][site] < 1)
    return Row(later, site, "top1", estimate, earlier, "difference"), p


def _leave_one_out(query: Sequence[FeatureSet]) -> _Task:
    class_of = _class_of_each(query)
    names = _in_label_order(query[0])
    counts = {name: int((class_of == name).sum()) for name in names}
    _check_two_classes(names, query[0].images)
    single = [name for name, count in counts.items() if count < 2]
    if single:
        raise DataError(
            f"{query[0].images}: leave-one-out needs two images of each class; {_some(single)} has one",
            hint="Use more images per class, or give a separate support set.",
        )
    return _Task(names, _number(class_of, names), {}, None)


def _disjoint(query: Sequence[FeatureSet], support: Sequence[FeatureSet]) -> _Task:
    class_of, support_class_of = _class_of_each(query), _class_of_each(support)
    names = _in_label_order(support[0])
    _check_two_classes(names, support[0].images)
    without = sorted(set(class_of) - set(names))
    if without:
        raise DataError(
            f"{support[0].images} has no image of {_some(without)}, which {query[0].images} asks for",
            hint="Support and query must have the same classes; take them from the same data set.",
        )
    shared = set(query[0].item_ids) & set(support[0].item_ids)
    if query[0].images == support[0].images and shared:
        raise DataError(
            f"{len(shared)} images of {query[0].images} are in the support set too, {min(shared)} among them",
            hint="Take other images for the support, or leave it out: then leave-one-out is used.",
        )
    by_name = {features.encoder: features for features in support}
    _check_sites(query, by_name)
    return _Task(names, _number(class_of, names), by_name, _number(support_class_of, names))


def _check_sites(query: Sequence[FeatureSet], support: dict[str, FeatureSet]) -> None:
    for features in query:
        have = support[features.encoder].sites if features.encoder in support else {}
        lacking = [site for site in features.sites if site not in have]
        if lacking:
            raise DataError(
                f"{features.encoder}: no support features at {_some(lacking)}",
                hint="Extract support and query features for the same checkpoints and sites.",
            )


def _check_two_classes(names: tuple[str, ...], images: str) -> None:
    if len(names) < 2:
        raise DataError(
            f"{images} has a single class, {_some(names)}: any encoder would score 100 %",
            hint="Give an image set with at least two classes, one folder each.",
        )


def _class_of_each(sets: Sequence[FeatureSet]) -> NDArray[np.str_]:
    """Class name of each image; support and query may number the same classes differently."""
    for features in sets:
        if features.labels is None:
            raise DataError(
                f"{features.images} has no labels, so accuracy cannot be measured on it",
                hint="Sort the images into one folder per class, or leave this analysis out.",
            )
    names = np.array([_name(sets[0], int(label)) for label in _labels(sets[0])], dtype=np.str_)
    for features in sets[1:]:
        if not np.array_equal(_labels(features), _labels(sets[0])):
            raise DataError(
                f"{features.encoder} and {sets[0].encoder} have different labels for the images of {features.images}",
                hint="Extract the features of all checkpoints from the same image set in one run.",
            )
    return names


def _labels(features: FeatureSet) -> Labels:
    assert features.labels is not None  # checked by _class_of_each
    return features.labels


def _in_label_order(features: FeatureSet) -> tuple[str, ...]:
    return tuple(_name(features, int(label)) for label in np.unique(_labels(features)))


def _name(features: FeatureSet, label: int) -> str:
    return features.classes[label] if features.classes else str(label)


def _number(class_of: NDArray[np.str_], names: tuple[str, ...]) -> Labels:
    index = {name: number for number, name in enumerate(names)}
    return np.array([index[str(name)] for name in class_of], dtype=np.int64)


def _settings(base: FeatureSet, task: _Task) -> dict[str, Any]:
    support = next(iter(task.support.values()), None)
    return {
        "base": base.encoder,
        "images": base.images,
        "n": len(base.item_ids),
        "protocol": "leave-one-out" if support is None else "disjoint support",
        "support": None if support is None else support.images,
        "n_support": None if support is None else len(support.item_ids),
        "classes": len(task.names),
        "chance": 1 / len(task.names),
        "consumed": base.consumed,
    }


def _warnings(query: Sequence[FeatureSet], task: _Task) -> Iterator[str]:
    base = query[0]
    for features in query[1:]:
        if features.consumed != base.consumed:
            yield (
                f"{features.encoder} is read at {features.consumed}, {base.encoder} at {base.consumed}; "
                "differences are taken at the same site"
            )
    if task.support:
        known = {row.tobytes() for row in task.support[base.encoder].sites[base.consumed]}
        copies = sum(row.tobytes() in known for row in base.sites[base.consumed])
        if copies:
            yield (
                f"{copies} of {len(base.item_ids)} images have exactly the features of a support image: "
                "they are probably in both sets, and accuracy is too high"
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def check_classes(images: ImageSet, support: ImageSet | None) -> None:
    """Refuse images without classes.

    Raises:
        DataError: If they have none.
    """
    if images.classes is None:
        raise DataError(f"{images.name} has no classes", hint="Accuracy needs a folder per class or a label column.")


def _needs(encoder: VisionEncoder) -> list[str]:
    return [encoder.consumed, "projected"] if encoder.has_projector else [encoder.consumed]


def _run(inputs: Inputs) -> Result:
    sets = [inputs.base, *inputs.others, *inputs.floors]
    return prototype_accuracy(sets, inputs.support or None, [floor.encoder for floor in inputs.floors])


IMAGENET = Analysis(
    name="imagenet",
    question=QUESTION,
    needs=_needs,
    run=_run,
    floors="untrained",
    support=True,
    check=check_classes,
)
