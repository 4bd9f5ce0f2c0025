"""From one number per image and change to rows: means over severities, what is kept, paired differences, curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from visprobe.analyses.core.estimates import cka_estimate, estimate
from visprobe.analyses.robustness.scores import Scored, Scores
from visprobe.analyses.robustness.variants import by_kind, kind_of, level_of, summed_up
from visprobe.metrics.intervals.clustered import clustered_mean
from visprobe.metrics.intervals.jackknife import Replicated, jackknife
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.intervals.proportions import wilson
from visprobe.results.result import Estimate, Role, Row


def error_rows(scored: Sequence[Scored]) -> Iterator[Row]:
    """Clean top-1; error of each kind of change, a mean over its levels; over all, the share of clean accuracy kept."""
    for one in scored:
        assert one.clean is not None  # made by right_scores
        role, n = _role(one), len(one.clean)
        hits = int(one.clean.sum())
        clean = Estimate(hits / n, *wilson(hits, n), n, "fraction", "Wilson 95 %")
        yield Row(one.checkpoint, one.site, "top1_clean", clean, role=role)
        for kind, right in _over_levels(one).items():
            yield Row(one.checkpoint, one.site, f"error_{one.place}/{kind}", _mean(1 - right, (0, 1), "fraction"),
                      role=role)  # fmt: skip
        for kind in summed_up(by_kind(one.changed)) if hits > 1 else ():  # of an accuracy of nothing no share is kept
            kept = _ratio(_over_levels(one)[kind], one.clean)
            yield Row(one.checkpoint, one.site, f"kept_{one.place}/{kind}", kept, role=role)


def stability_rows(scored: Sequence[Scored]) -> Iterator[Row]:
    """Cosine with the unchanged images for each kind of change, a mean over its levels; and CKA."""
    for one in scored:
        role = _role(one)
        for kind, cosines in _over_levels(one).items():
            steady = _mean(cosines, (-1, 1), "cosine")
            yield Row(one.checkpoint, one.site, f"steady_{one.place}/{kind}", steady, role=role)
        for kind in summed_up(by_kind(one.cka)):
            parts = [one.cka[variant] for variant in by_kind(one.cka)[kind]]
            mean = Replicated(float(np.mean([p.value for p in parts])), np.mean([p.without for p in parts], axis=0))
            yield Row(one.checkpoint, one.site, f"steady_cka_{one.place}/{kind}", cka_estimate(mean), role=role)


def difference_rows(scored: Sequence[Scored], measure: str) -> tuple[list[Row], list[dict[str, Any]]]:
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
    for earlier, later in combinations([one for one in scored if not one.floor], 2):
        if earlier.place != later.place:
            continue
        first, second = _over_levels(earlier), _over_levels(later)
        group: list[dict[str, Any]] = []
        for kind in first:
            change = first[kind] - second[kind] if measure == "error" else second[kind] - first[kind]
            found = _mean(change, (-1, 1) if measure == "error" else (-2, 2), _UNITS[measure])
            rows.append(
                Row(
                    later.checkpoint,
                    later.site,
                    f"{measure}_{later.place}/{kind}",
                    found,
                    earlier.checkpoint,
                    "difference",
                )
            )
            group.append({"checkpoint": later.checkpoint, "reference": earlier.checkpoint, "site": later.site,
                          "kind": kind, "p": _p(change)})  # fmt: skip
        kinds = [test for test in group if test["kind"] in {kind_of(variant) for variant in later.changed}]
        for test, adjusted in zip(kinds, holm([test["p"] for test in kinds]), strict=True):
            test["p_holm"] = float(adjusted)
        tests += group
    return rows, tests


def curves(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Every checkpoint at every level: top-1 with Wilson intervals, or mean cosine with t intervals."""
    found = []
    for one in scored:
        entries = [("clean", 0.0, one.clean)] if one.clean is not None else []
        entries += [(kind_of(variant), level_of(variant), scores) for variant, scores in one.changed.items()]
        for kind, level, scores in entries:
            shown = _mean(scores, (-1, 1), "") if one.clean is None else None
            ends = wilson(int(scores.sum()), len(scores)) if shown is None else (shown.low, shown.high)
            found.append(
                {"checkpoint": one.checkpoint, "site": one.site, "kind": kind, "level": level,
                 "value": float(scores.mean()), "low": ends[0], "high": ends[1]}
            )  # fmt: skip
    return found


_UNITS = {"error": "fraction", "steady": "cosine"}


def _role(one: Scored) -> Role:
    return "floor" if one.floor else "value"


def _over_levels(one: Scored) -> dict[str, Scores]:
    """By kind the mean over its levels, one number per image: what an image has in common is counted once."""
    return {
        kind: np.mean([one.changed[variant] for variant in variants], axis=0)
        for kind, variants in by_kind(one.changed).items()
    }


def _mean(values: Scores, bounds: tuple[float, float], unit: str) -> Estimate:
    found = clustered_mean(values, np.arange(len(values)), bounds=bounds)
    return Estimate(found.value, found.low, found.high, found.clusters, unit, "t over images 95 %")


def _ratio(changed: Scores, clean: Scores) -> Estimate:
    """Accuracy on changed over accuracy on clean images; each image is left out of both."""
    without = (changed.sum() - changed) / (clean.sum() - clean)
    found = jackknife(Replicated(float(changed.sum() / clean.sum()), without), limit=float("inf"))
    return estimate(found._replace(low=max(found.low, 0.0)), "ratio")


def _p(change: Scores) -> float:
    """Two-sided p of a t test over images; of differences that are all equal, 1 if they are 0."""
    if np.ptp(change) == 0:
        return float(change[0] == 0)
    return float(ttest_1samp(change, 0).pvalue)
