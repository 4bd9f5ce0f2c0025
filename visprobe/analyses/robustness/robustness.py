"""Robustness: accuracy, or stability of features, when images are damaged, small or cropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from visprobe.analyses.accuracy.overlap import duplicates, overlap_settings
from visprobe.analyses.accuracy.task import make_task
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import Key, kinds_of, value_rows, with_holm
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.analyses.robustness.scores import Scored, Scores, right_scores, stability_scores
from visprobe.analyses.robustness.variants import Plan, by_kind, kind_of, level_of, summed_up
from visprobe.data.labels.annotated import no_classes
from visprobe.features.requests import read_sites
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import CKA, FRACTION, Scale
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.proportions import proportion
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import BaselineKind, Estimate, Result, Row

QUESTION = "How much of what the encoder sees is left when images are damaged, and more than before post-training?"
IMAGES = 1000
_COSINE = Scale("cosine", -1, 1)
_FEWEST = 6  # images of which a CKA without any one of them can be taken


def robustness(plan: Plan | None = None) -> Analysis:
    """Return the analysis for a choice of changes.

    Args:
        plan: Changes to measure; by default four corruptions at severities 1, 3 and 5.
    """
    chosen = plan or Plan()
    return Analysis(
        name="robustness",
        question=QUESTION,
        needs=read_sites,
        run=measure_robustness,
        images=IMAGES,
        baselines="untrained",
        support=True,
        variants=chosen.variants,
        presentation=Presentation(
            titles={
                "top1_clean": "Top-1 accuracy on clean images",
                "error_consumed": "Top-1 error on changed images, where the language model reads",
                "error_projected": "Top-1 error on changed images, after the projector",
                "kept_consumed": "Share of the clean accuracy that is kept, where the language model reads",
                "kept_projected": "Share of the clean accuracy that is kept, after the projector",
                "steady_consumed": "Cosine of changed and unchanged images' features, where the language model reads",
                "steady_projected": "Cosine of changed and unchanged images' features, after the projector",
                "steady_cka_consumed": "CKA of changed and unchanged images, where the language model reads",
                "steady_cka_projected": "CKA of changed and unchanged images, after the projector",
            },
            heading="Change",
            figures=(FigureSpec("robustness", "visprobe.analyses.robustness.robustness_figure"),),
            place=80,
        ),
    )


def measure_robustness(inputs: Inputs) -> Result:
    """Measure every checkpoint on changed copies of the images, at the consumed site and after the projector.

    Args:
        inputs: Features, `variants` named by `Plan.variants`. Prototypes come from clean support images; where there
            are none, from the clean images without the one that is asked about.

    Returns:
        With classes: "top1_clean"; "error_<place>/<kind>", mean top-1 error over the levels of a kind of change and
        over all corruptions, with t intervals over images; "kept_<place>/<kind>", over all corruptions, accuracy over
        clean accuracy, with jackknife intervals. Without classes: "steady_<place>/<kind>", mean cosine of clean and
        changed features, and "steady_cka_<place>/<kind>". Differences of "error" or "steady" between checkpoints are
        paired over the same changed images. Settings hold every point of the curves and the tests, with Holm's over
        kinds.

    Raises:
        DataError: If images cannot be paired, a feature is not finite, or classes have too few images.

    Source:
        Hendrycks & Dietterich 2019 (1903.12261), section 4.
    Differs from source:
        Errors are not divided by AlexNet's, which exist for ImageNet alone: differences to the base stand in for it.
    """
    refuse_fewer(inputs.base, _FEWEST, "robustness")
    labelled, baselines = inputs.base.labels is not None, kinds_of(inputs.baselines)
    if labelled:
        task = make_task(inputs.all, inputs.support or None)
        scored = right_scores(inputs, task)
        rows, settings, warnings = [*_error_rows(scored, baselines)], task.settings(), [*task.warnings()]
    else:
        scored = stability_scores(inputs, tuple(align(inputs.all)))
        unlabelled = no_classes(inputs.images) if inputs.images else f"{inputs.base.images} has no classes"
        rows, settings, warnings = (
            [*_stability_rows(scored, baselines)],
            # Nothing is trained on other images; copies within the set still count as independent, which settings say.
            common_settings(inputs.base) | overlap_settings(duplicates(inputs.base)),
            [_NO_CLASSES.format(unlabelled)],
        )
    differences, tests = _change_differences(scored, "error" if labelled else "steady")
    settings |= {"measure": "top1" if labelled else "cosine", "tests": tests, "curves": _curves(scored)}
    settings |= {"sites": [*dict.fromkeys(one.site for one in scored)], "baselines": list(baselines)}
    return Result("robustness", QUESTION, (*rows, *differences), settings, (*warnings, *_nothing_kept(scored)))


_NO_CLASSES = "{}; how far features move is measured, not whether they still tell classes apart"


def _nothing_kept(scored: list[Scored]) -> Iterator[str]:
    for one in scored:
        if one.clean is not None and one.clean.sum() < 2:
            yield f"{one.checkpoint} finds the class of no two clean images at {one.site}: no share of that can be kept"


def _error_rows(scored: Sequence[Scored], baselines: Mapping[str, BaselineKind]) -> Iterator[Row]:
    """Yield clean top-1, error of each kind of change (a mean over its levels), and share of clean accuracy kept."""
    numbers: dict[Key, Estimate] = {}
    for one in scored:
        assert one.clean is not None  # made by right_scores
        numbers[one.checkpoint, one.site, "top1_clean"] = proportion(one.clean > 0)
        for kind, right in _over_levels(one).items():
            numbers[one.checkpoint, one.site, f"error_{one.place}/{kind}"] = _mean(1 - right, FRACTION)
        for kind in summed_up(by_kind(one.changed)) if one.clean.sum() > 1 else ():  # else no share is kept
            kept = _ratio(_over_levels(one)[kind], one.clean)
            numbers[one.checkpoint, one.site, f"kept_{one.place}/{kind}"] = kept
    return value_rows(numbers, baselines)


def _stability_rows(scored: Sequence[Scored], baselines: Mapping[str, BaselineKind]) -> Iterator[Row]:
    """Yield the cosine with the unchanged images for each kind of change (a mean over its levels), and CKA."""
    numbers: dict[Key, Estimate] = {}
    for one in scored:
        for kind, cosines in _over_levels(one).items():
            numbers[one.checkpoint, one.site, f"steady_{one.place}/{kind}"] = _mean(cosines, _COSINE)
        for kind in summed_up(by_kind(one.cka)):
            parts = [one.cka[variant] for variant in by_kind(one.cka)[kind]]
            mean = Replicated(float(np.mean([p.value for p in parts])), np.mean([p.without for p in parts], axis=0))
            numbers[one.checkpoint, one.site, f"steady_cka_{one.place}/{kind}"] = mean.estimate(CKA)
    return value_rows(numbers, baselines)


def _change_differences(scored: Sequence[Scored], measure: str) -> tuple[list[Row], list[dict[str, Any]]]:
    """Compute paired differences of later and earlier checkpoints over the same changed images, with t tests."""
    rows: list[Row] = []
    tests: list[dict[str, Any]] = []
    scale = (FRACTION if measure == "error" else _COSINE).of_differences
    for earlier, later in combinations([one for one in scored if not one.baseline], 2):
        if earlier.place != later.place:
            continue
        first, second = _over_levels(earlier), _over_levels(later)
        group: list[dict[str, Any]] = []
        for kind in first:
            change = first[kind] - second[kind] if measure == "error" else second[kind] - first[kind]
            what = f"{measure}_{later.place}/{kind}"
            row = Row(later.checkpoint, later.site, what, _mean(change, scale), earlier.checkpoint, "difference")
            rows.append(row)
            group.append({"checkpoint": later.checkpoint, "reference": earlier.checkpoint, "site": later.site,
                          "kind": kind, "p": _p(change)})  # fmt: skip
        # The mean over all corruptions is one test of its own: only single kinds are adjusted.
        with_holm([one for one in group if one["kind"] in {kind_of(variant) for variant in later.changed}], lambda _: 0)
        tests += group
    return rows, tests


def _curves(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Return every checkpoint at every level: top-1 with Wilson intervals, or mean cosine with t intervals."""
    found = []
    for one in scored:
        entries = [("clean", 0.0, one.clean)] if one.clean is not None else []
        entries += [(kind_of(variant), level_of(variant), scores) for variant, scores in one.changed.items()]
        for kind, level, scores in entries:
            shown = _mean(scores, _COSINE) if one.clean is None else proportion(scores > 0)
            found.append(
                {"checkpoint": one.checkpoint, "site": one.site, "kind": kind, "level": level,
                 "value": float(scores.mean()), "low": shown.low, "high": shown.high}
            )  # fmt: skip
    return found


def _over_levels(one: Scored) -> dict[str, Scores]:
    """Average over the levels of each kind, one number per image, so that an image counts once."""
    return {
        kind: np.mean([one.changed[variant] for variant in variants], axis=0)
        for kind, variants in by_kind(one.changed).items()
    }


def _mean(values: Scores, scale: Scale) -> Estimate:
    return clustered_mean(values, np.arange(len(values)), scale)


def _ratio(changed: Scores, clean: Scores) -> Estimate:
    """Return accuracy on changed over accuracy on clean images; each image is left out of both."""
    without = (changed.sum() - changed) / (clean.sum() - clean)
    return Replicated(float(changed.sum() / clean.sum()), without).estimate(Scale("ratio", low=0))


def _p(change: Scores) -> float:
    """Return the two-sided p of a t test over images; 1 if all differences are 0, 0 if all equal another number."""
    if np.ptp(change) == 0:
        return float(change[0] == 0)
    return float(ttest_1samp(change, 0).pvalue)


ROBUSTNESS = robustness()
