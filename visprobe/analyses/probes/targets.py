"""Probes of several targets per image: labels that each hold or not, and numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.core.differences import Paired, kinds_of, tested_differences, value_rows
from visprobe.analyses.core.refusals import naming
from visprobe.analyses.probes.data import TargetTask
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Array, Indices
from visprobe.metrics.classifiers.logistic import Fit, NotConverged, multilabel_fits, prepared
from visprobe.metrics.classifiers.multilabel import auroc, average_precision, f1
from visprobe.metrics.classifiers.ridge import ridge
from visprobe.metrics.classifiers.select_c import AtBoundary, best_of
from visprobe.metrics.intervals.estimate import Estimate, Scale
from visprobe.metrics.intervals.jackknife import Replicated, replicate_by_groups
from visprobe.results.result import Result

CS = tuple(float(c) for c in 10.0 ** np.arange(-6, 3.1, 0.5))  # in units of features of mean variance 1
PENALTIES = tuple(float(p) for p in 10.0 ** np.arange(-6, 4.1, 0.5))  # times number of images and mean variance
GROUPS = 20
LISTED = 10  # at most so many numbers get rows of their own
_HELD_OUT = 0.2
_JACKKNIFE = f"jackknife over {GROUPS} groups of images 95 %"
_MULTILABEL = {"probe_map": average_precision, "probe_macro_f1": f1, "probe_macro_auroc": auroc}


@dataclass(frozen=True)
class Probed:
    """Measures of a probe, also without images or groups of them, and its score for each target."""

    measures: dict[str, Replicated]
    each: list[float | None]


def target_probes(task: TargetTask, question: str, seed: int, device: str) -> Result:
    """Fit probes of every checkpoint at every site of `task`.

    Returns:
        For labels rows "probe_map" (mean average precision), "probe_macro_f1" and "probe_macro_auroc"; for numbers
        "probe_r2", the mean over targets, and "probe_r2_NAME" of each where there are ten or fewer. Paired differences
        of each, p-values adjusted over the sites of a pair in the settings.

    Raises:
        DataError: If a probe is not defined.
    """
    wrong: dict[str, list[str]] = {}
    found: dict[str, dict[str, Probed]] = {}
    for features in task.query:
        for site in features.sites:
            with warnings.catch_warnings(record=True) as caught, naming(features, site, "a probe"):
                warnings.simplefilter("always")
                one = _labels(task, features, site, seed, device) if task.targets.kind == "labels" else _numbers(
                    task, features, site)  # fmt: skip
            found.setdefault(features.encoder, {})[site] = one
            for warning in caught:
                wrong.setdefault(warning.category.__name__, []).append(f"{features.encoder} at {site}")
    measures = {
        (name, site, measure): value
        for name, sites in found.items()
        for site, one in sites.items()
        for measure, value in one.measures.items()
    }
    baselines = kinds_of(features for features in task.query if features.baseline)
    values = {key: _estimate(value, key[2], 1.0) for key, value in measures.items()}
    differences, tests = tested_differences(measures, [name for name in found if name not in baselines], _difference)
    each = {name: {site: one.each for site, one in sites.items()} for name, sites in found.items()}
    settings = {**task.settings(), "tests": tests, "each_target": each, "cs": list(CS), "penalties": list(PENALTIES)}
    return Result(
        "probe",
        question,
        (*value_rows(values, baselines), *differences),
        settings,
        (*task.warnings(), *_said(wrong)),
    )


def _labels(task: TargetTask, features: FeatureSet, site: str, seed: int, device: str) -> Probed:
    array, rows = task.support[features.encoder].sites[site], features.sites[site]
    scores = np.full(task.targets.values.shape, np.nan)
    for own in _of_one_pattern(task.support_values):
        there = np.flatnonzero(~np.isnan(task.support_values[:, own[0]]))
        scores[:, own] = _scores(array[there], task.support_values[there][:, own].astype(bool), rows, seed, device)
    truth, known = task.targets.values == 1, ~np.isnan(task.targets.values)

    def mean(of: Callable[[Array, NDArray[np.bool_]], Array]) -> Replicated:
        return replicate_by_groups(
            lambda images: _mean_over_labels(of, scores, truth, known, images), len(rows), GROUPS
        )

    each = _each(average_precision, scores, truth, known, np.arange(len(rows)))
    return Probed({name: mean(of) for name, of in _MULTILABEL.items()}, _plain(each))


def _scores(
    array: NDArray[np.floating], truth: NDArray[np.bool_], rows: NDArray[np.floating], seed: int, device: str
) -> Array:
    """Return logits of the query rows, C chosen by the log loss on held-out training images."""
    order = np.random.default_rng(seed).permutation(len(array))
    kept = len(array) - max(1, round(_HELD_OUT * len(array)))
    learnable = truth[order[:kept]].any(0) & ~truth[order[:kept]].all(0)
    path = prepared(array[order], device)
    held, known = path.features[kept:].cpu().numpy(), truth[order]
    cs = [c / (path.variance or 1.0) for c in CS]

    def score(fit: Fit) -> tuple[float, float]:
        sign = np.where(known[kept:][:, learnable], 1.0, -1.0)
        loss = float(np.logaddexp(0, -sign * fit.logits(held)).mean())
        return -loss, loss

    if not learnable.any():
        raise ValueError("no label occurs in the part of the training images that C is chosen on")
    best = best_of(multilabel_fits(path.first(kept), known[:kept][:, learnable], cs), score, cs)
    return next(multilabel_fits(path, known, [best.fit.c])).logits(rows)


def _numbers(task: TargetTask, features: FeatureSet, site: str) -> Probed:
    array, rows = task.support[features.encoder].sites[site], features.sites[site]
    unit = len(array) * (float(array.var(0, dtype=np.float64).mean()) or 1.0)
    predicted = np.full(task.targets.values.shape, np.nan)
    for own in _of_one_pattern(task.support_values):
        there = np.flatnonzero(~np.isnan(task.support_values[:, own[0]]))
        for k in own:  # a penalty each: a noisy target must not choose that of the others
            fit = ridge(array[there], task.support_values[there][:, [k]], [p * unit for p in PENALTIES])
            if fit.penalty in (PENALTIES[0] * unit, PENALTIES[-1] * unit):
                warnings.warn("the best penalty is at the end of the grid", AtBoundary, stacklevel=2)
            predicted[:, k] = fit.predict(rows)[:, 0]
    each = [r2(predicted[:, k], truth) for k, truth in enumerate(task.targets.values.T)]
    measures = {"probe_r2": _averaged(each)}
    if 1 < len(each) <= LISTED:
        measures |= {f"probe_r2_{name}": one for name, one in zip(task.targets.names, each, strict=True)}
    return Probed(measures, [round(one.value, 4) for one in each])


def r2(predicted: Array, truth: Array) -> Replicated:
    """Compute the share of the variance of `truth` that `predicted` explains, also without each image.

    Args:
        predicted: float64 of shape (n,).
        truth: float64 of shape (n,), NaN where missing: such an image changes nothing.

    Raises:
        ValueError: If the truth does not vary, with or without some one image.
    """
    known = ~np.isnan(truth)
    n, value = int(known.sum()), truth[known]
    away = np.square(value - value.mean()) if n > 2 else np.zeros(0)
    # Without image i the mean moves: the total sum of squares falls by (y_i - mean)^2 n / (n - 1).
    total_without = away.sum() - away * n / max(n - 1, 1)
    if n < 3 or total_without.min() <= 1e-12 * away.sum():
        raise ValueError("a target does not vary over the images")
    errors = np.square(predicted[known] - value)
    whole = 1 - errors.sum() / away.sum()
    without = np.full(len(truth), whole)
    without[known] = 1 - (errors.sum() - errors) / total_without
    return Replicated(float(whole), without)


def _averaged(each: Sequence[Replicated]) -> Replicated:
    return Replicated(float(np.mean([one.value for one in each])), np.mean([one.without for one in each], axis=0))


def _of_one_pattern(values: Array) -> list[list[int]]:
    """Group targets that are missing for the same images, which are then fitted together."""
    groups: dict[bytes, list[int]] = {}
    for k, column in enumerate(values.T):
        groups.setdefault(np.isnan(column).tobytes(), []).append(k)
    return list(groups.values())


def _mean_over_labels(
    of: Callable[[Array, NDArray[np.bool_]], Array],
    scores: Array,
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_],
    images: Indices,
) -> float:
    each = _each(of, scores, truth, known, images)
    if np.isnan(each).all():
        raise ValueError("no label occurs in some part of the images")
    return float(np.nanmean(each))


def _each(
    of: Callable[[Array, NDArray[np.bool_]], Array],
    scores: Array,
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_],
    images: Indices,
) -> Array:
    if known[images].all():
        return of(scores[images], truth[images])
    found = []
    for k in range(truth.shape[1]):
        own = images[known[images, k]]
        found.append(float(of(scores[own][:, [k]], truth[own][:, [k]])[0]) if len(own) else float("nan"))
    return np.array(found)


def _difference(pair: Paired[Replicated]) -> tuple[Estimate, float]:
    change = pair.after - pair.before
    return _estimate(change, pair.measure, math.inf), change.student.p_zero()


def _estimate(found: Replicated, measure: str, most: float) -> Estimate:
    estimate = found.estimate(Scale(_unit(measure), high=most))
    return estimate if measure.startswith("probe_r2") else replace(estimate, method=_JACKKNIFE)


def _unit(measure: str) -> str:
    return "R²" if measure.startswith("probe_r2") else "fraction"


def _plain(values: Array) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _said(wrong: dict[str, list[str]]) -> Iterator[str]:
    said = {
        AtBoundary.__name__: "the best penalty is at the end of the grid: a better one may lie outside",
        NotConverged.__name__: "a fit stopped before its gradient was small",
    }
    for kind, places in wrong.items():
        where = list(dict.fromkeys(places))
        more = f" and {len(where) - 4} more" if len(where) > 4 else ""
        yield f"{said.get(kind, kind)}: {', '.join(where[:4])}{more}"
