"""From one number per image and change to rows: means over severities, what is kept, paired differences, curves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from visprobe.analyses.core.differences import Key, value_rows, with_holm
from visprobe.analyses.robustness.scores import Scored, Scores
from visprobe.analyses.robustness.variants import by_kind, kind_of, level_of, summed_up
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.estimate import CKA, FRACTION, Scale
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.proportions import proportion
from visprobe.results.result import Estimate, Row

_COSINE = Scale("cosine", -1, 1)


def error_rows(scored: Sequence[Scored], floors: Collection[str]) -> Iterator[Row]:
    """Clean top-1; error of each kind of change, a mean over its levels; over all, the share of clean accuracy kept."""
    numbers: dict[Key, Estimate] = {}
    for one in scored:
        assert one.clean is not None  # made by right_scores
        numbers[one.checkpoint, one.site, "top1_clean"] = proportion(one.clean > 0)
        for kind, right in _over_levels(one).items():
            numbers[one.checkpoint, one.site, f"error_{one.place}/{kind}"] = _mean(1 - right, FRACTION)
        for kind in summed_up(by_kind(one.changed)) if one.clean.sum() > 1 else ():  # of nothing no share is kept
            kept = _ratio(_over_levels(one)[kind], one.clean)
            numbers[one.checkpoint, one.site, f"kept_{one.place}/{kind}"] = kept
    return value_rows(numbers, floors)


def stability_rows(scored: Sequence[Scored], floors: Collection[str]) -> Iterator[Row]:
    """Cosine with the unchanged images for each kind of change, a mean over its levels; and CKA."""
    numbers: dict[Key, Estimate] = {}
    for one in scored:
        for kind, cosines in _over_levels(one).items():
            numbers[one.checkpoint, one.site, f"steady_{one.place}/{kind}"] = _mean(cosines, _COSINE)
        for kind in summed_up(by_kind(one.cka)):
            parts = [one.cka[variant] for variant in by_kind(one.cka)[kind]]
            mean = Replicated(float(np.mean([p.value for p in parts])), np.mean([p.without for p in parts], axis=0))
            numbers[one.checkpoint, one.site, f"steady_cka_{one.place}/{kind}"] = mean.estimate(CKA)
    return value_rows(numbers, floors)


def change_differences(scored: Sequence[Scored], measure: str) -> tuple[list[Row], list[dict[str, Any]]]:
    """Paired differences over the same changed images, later minus earlier checkpoint, and t tests of them.

    Args:
        scored: Of all checkpoints and floors.
        measure: "error", of which less is better, or "steady".

    Returns:
        Rows; and for each kind {"checkpoint", "reference", "site", "kind", "p", "p_holm"}, "p_holm" adjusted over the
        kinds of one pair and place. Their mean is one test of its own.
    """
    rows: list[Row] = []
    tests: list[dict[str, Any]] = []
    scale = (FRACTION if measure == "error" else _COSINE).of_differences
    for earlier, later in combinations([one for one in scored if not one.floor], 2):
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
        with_holm([one for one in group if one["kind"] in {kind_of(variant) for variant in later.changed}], lambda _: 0)
        tests += group
    return rows, tests


def curves(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Every checkpoint at every level: top-1 with Wilson intervals, or mean cosine with t intervals."""
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
    """By kind the mean over its levels, one number per image: what an image has in common is counted once."""
    return {
        kind: np.mean([one.changed[variant] for variant in variants], axis=0)
        for kind, variants in by_kind(one.changed).items()
    }


def _mean(values: Scores, scale: Scale) -> Estimate:
    return clustered_mean(values, np.arange(len(values)), scale)


def _ratio(changed: Scores, clean: Scores) -> Estimate:
    """Accuracy on changed over accuracy on clean images; each image is left out of both."""
    without = (changed.sum() - changed) / (clean.sum() - clean)
    return Replicated(float(changed.sum() / clean.sum()), without).estimate(Scale("ratio", low=0))


def _p(change: Scores) -> float:
    """Two-sided p of a t test over images; of differences that are all equal, 1 if they are 0."""
    if np.ptp(change) == 0:
        return float(change[0] == 0)
    return float(ttest_1samp(change, 0).pvalue)
