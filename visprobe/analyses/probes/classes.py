"""Probes of classes: accuracy, few labels, log loss, calibration and control labels at each site."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.accuracy.few_labels import crossed_difference
from visprobe.analyses.accuracy.rows import accuracy_differences, accuracy_rows, sites_that_matter
from visprobe.analyses.accuracy.task import Task
from visprobe.analyses.core.differences import Key, Paired, Test, by_key, pairs, value_rows, with_holm
from visprobe.analyses.core.refusals import naming
from visprobe.analyses.probes.config import ProbeConfig
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Array, Bools, Labels
from visprobe.metrics.classifiers.calibration import brier_scores, calibration_error, log_losses, probabilities
from visprobe.metrics.classifiers.label_draws import control_labels, label_draws
from visprobe.metrics.classifiers.logistic import Fit, NotConverged, logistic_fits, prepared
from visprobe.metrics.classifiers.select_c import AtBoundary, select_c, select_prepared, stratified_split
from visprobe.metrics.intervals.crossed import crossed_mean
from visprobe.metrics.intervals.estimate import FRACTION, Scale
from visprobe.metrics.intervals.half_sampling import Halved
from visprobe.metrics.intervals.jackknife import Replicated, replicate_mean
from visprobe.metrics.intervals.proportions import paired_difference, proportion
from visprobe.results.result import Estimate, Result, Row

# In units of features of mean variance 1.
CS = tuple(float(c) for c in 10.0 ** np.arange(-6, 3.1, 0.5))
C_OF_ONE = 1.0  # one image per class leaves nothing to hold out
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Probed:
    """Predictions of a probe for the query images under one checkpoint at one site.

    Attributes:
        right: True where an image is put into its class, bool of shape (n,).
        losses: Log loss of each image in nats, float64 of shape (n,).
        brier: Brier score of each image, float64 of shape (n,), in [0, 2].
        error: Expected calibration error, in [0, 1].
        control: `right` of a probe that learned permuted labels; None where not fitted.
        fitted: Accuracy on the training images with the true and with the permuted labels.
        few: `right` for each draw, shape (draws, n), by images per class.
        c: Chosen C, in units of features of mean variance 1.
    """

    right: Bools
    losses: Array
    brier: Array
    error: Halved
    control: Bools | None
    fitted: tuple[float, float] | None
    few: Mapping[int, Bools]
    c: float


Found = dict[str, dict[str, Probed]]


def class_probes(task: Task, protocol: str, question: str, how: ProbeConfig, seed: int, device: str) -> Result:
    """Fit probes of every checkpoint at every site of `task`.

    Args:
        task: Task with training images.
        protocol: Origin of the training images, in words.
        question: Question of the result.
        how: Options of the probes.
        seed: Seed of the held-out training images that C is chosen on, and of the permuted labels.
        device: Torch device to compute on.

    Returns:
        Rows "probe_top1", "probe_log_loss", and where the language model reads also "probe_of_1", ... (few labels),
        "probe_ece", "probe_brier", "probe_macro_recall", "probe_control", "probe_selectivity"; paired differences of
        the first three and of the calibration error.
    """
    maker = _Maker(task, how, seed, device)
    found: Found = {}
    for features in task.query:
        read = sites_that_matter(features)
        found[features.encoder] = {site: maker.probed(features, site, full=site in read) for site in features.sites}
    right = {name: {site: one.right for site, one in sites.items()} for name, sites in found.items()}
    differences, tests = accuracy_differences(right, "probe_top1", task.baselines)
    more, loss_tests = _differences(found, task.baselines)
    values = value_rows(_values(found, task), task.baselines)
    rows = [*accuracy_rows(right, "probe_top1", task.baselines), *values, *differences, *more]
    settings = {
        **task.settings(),
        **maker.settings(),
        "protocol": protocol,
        "tests": [*tests, *loss_tests],
        "c": {name: {site: one.c for site, one in sites.items()} for name, sites in found.items()},
        "fitted_share": {name: {site: [*one.fitted] for site, one in sites.items() if one.fitted}
                         for name, sites in found.items()},
        "class_names": list(task.names),
        "recall": _recalls(right, task.labels),
    }  # fmt: skip
    return Result("probe", question, tuple(rows), settings, (*task.warnings(), *maker.warnings()))


class _Maker:
    def __init__(self, task: Task, how: ProbeConfig, seed: int, device: str) -> None:
        assert task.support_labels is not None  # class_task sees to it
        self._task, self._how, self._seed, self._device = task, how, seed, device
        self._labels = task.support_labels
        self._kept, held_out = stratified_split(self._labels, _HELD_OUT, seed)
        self._order = np.concatenate([self._kept, held_out])
        least = int(np.bincount(self._labels).min())
        self._sizes = [size for size in how.per_class if size <= least]
        self._lacking = [size for size in how.per_class if size > least]
        self._least = least
        self._draws = label_draws(self._labels, self._sizes, how.seeds) if self._sizes else {}
        self._wrong: dict[str, list[str]] = {}

    def probed(self, features: FeatureSet, site: str, *, full: bool) -> Probed:
        """Fit the probe at a site; with few labels and control labels if `full`."""
        support = self._task.support[features.encoder]
        with warnings.catch_warnings(record=True) as caught, naming(features, site, "a probe"):
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", NotConverged)
            warnings.simplefilter("always", AtBoundary)
            found = self._probed(features, support, site, full)
        for one in caught:
            self._wrong.setdefault(one.category.__name__, []).append(f"{features.encoder} at {site}")
        return found

    def settings(self) -> dict[str, Any]:
        """Return the settings that every probe of the task depends on."""
        return {
            "solver": "exact",
            "features": "as they are, centred, divided by one number: the root of their mean variance",
            "cs": list(CS),
            "c_chosen_on": f"{_HELD_OUT:.0%} of each class of the training images, the smallest of the most accurate",
            "c_of_one_image": C_OF_ONE,
            "per_class_drawn": self._sizes,
            "draws": self._how.seeds,
        }

    def warnings(self) -> Iterator[str]:
        """Yield warnings about the fits."""
        said = {
            "AtBoundary": "the best C is at the end of the grid: a better one may lie outside",
            "NotConverged": "a fit stopped before its gradient was small",
        }
        for kind, places in self._wrong.items():
            where = list(dict.fromkeys(places))
            yield f"{said[kind]}: {', '.join(where[:4])}{f' and {len(where) - 4} more' if len(where) > 4 else ''}"
        if self._lacking:
            yield f"{', '.join(map(str, self._lacking))} per class left out: a class has {self._least} training images"

    def _probed(self, features: FeatureSet, support: FeatureSet, site: str, full: bool) -> Probed:
        rows, labels = features.sites[site], self._task.labels
        fit, c, control, fitted = self._fits(support, site, full)
        logits = fit.logits(rows)
        chances = probabilities(logits)
        control_right = None if control is None else control.classes(rows) == labels
        few = self._few(support.sites[site], rows) if full else {}
        return Probed(
            right=fit.classes(rows) == labels,
            losses=log_losses(logits, labels),
            brier=brier_scores(chances, labels),
            error=calibration_error(chances, labels, bins=min(15, len(labels) // 2)),
            control=control_right,
            fitted=fitted,
            few=few,
            c=c,
        )

    def _fits(
        self, support: FeatureSet, site: str, full: bool
    ) -> tuple[Fit, float, Fit | None, tuple[float, float] | None]:
        """Return the probe, its C, the probe of permuted labels and both accuracies on the training images."""
        labels = self._labels[self._order]
        array = support.sites[site][self._order]
        path = prepared(array, self._device)
        unit = path.variance or 1.0
        fit = select_prepared(path, labels, len(self._kept), [c / unit for c in CS]).fit
        if not full:
            return fit, fit.c * unit, None, None
        permuted = control_labels(labels, self._seed)
        control = next(logistic_fits(path, permuted, [fit.c]))
        shares = float((fit.classes(array) == labels).mean()), float((control.classes(array) == permuted).mean())
        return fit, fit.c * unit, control, shares

    def _few(self, array: NDArray[np.floating], rows: NDArray[np.floating]) -> dict[int, Bools]:
        found = {}
        for size, draws in self._draws.items():
            classes = [self._of_few(array[draw], self._labels[draw], size).classes(rows) for draw in draws]
            found[size] = np.stack(classes) == self._task.labels
        return found

    def _of_few(self, array: NDArray[np.floating], labels: Labels, size: int) -> Fit:
        if size == 1:
            path = prepared(array, self._device)
            return next(logistic_fits(path, labels, [C_OF_ONE / (path.variance or 1.0)]))
        unit = float(array.var(0, dtype=np.float64).mean()) or 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AtBoundary)  # with so few held out the best C is often the first of many
            return select_c(array, labels, [c / unit for c in CS], seed=self._seed, device=self._device).fit


def _values(found: Found, task: Task) -> dict[Key, Estimate]:
    values: dict[Key, Estimate] = {}
    for name, sites in found.items():
        for site, one in sites.items():
            values[name, site, "probe_log_loss"] = replicate_mean(one.losses).estimate(Scale("nats"))
            if one.few or one.control is not None:
                values |= {(name, site, measure): value for measure, value in _full(one, task)}
    return values


def _full(one: Probed, task: Task) -> Iterator[tuple[str, Estimate]]:
    for size, right in one.few.items():
        yield f"probe_of_{size}", crossed_mean(right)
    yield "probe_macro_recall", macro_recall(one.right, task.labels).estimate(FRACTION.of_differences)
    yield "probe_ece", one.error.estimate(FRACTION.of_differences)
    yield "probe_brier", replicate_mean(one.brier).estimate(Scale("Brier score"))
    if one.control is not None:
        yield "probe_control", proportion(one.control)
        yield "probe_selectivity", paired_difference(one.right, one.control)[0]


def macro_recall(right: Bools, labels: Labels) -> Replicated:
    """Compute the mean recall over the classes that occur, also without each image.

    Args:
        right: Bool of shape (n,).
        labels: Class of each image, int64 of shape (n,).

    Returns:
        Values in [0, 1].
    """
    counts = np.bincount(labels).astype(np.float64)
    hits = np.bincount(labels, weights=right, minlength=len(counts))
    occurs = int((counts > 0).sum())
    recall = hits / np.maximum(counts, 1)
    own, n = recall[labels], counts[labels]
    # Without its only image a class is no longer averaged over.
    alone = n == 1
    without = np.where(alone, 0.0, (hits[labels] - right) / np.maximum(n - 1, 1))
    classes = np.maximum(occurs - alone, 1)
    return Replicated(float(recall.sum() / occurs), (recall.sum() - own + without) / classes)


def _differences(found: Found, baselines: Collection[str]) -> tuple[list[Row], list[Test]]:
    """Return paired differences of all but accuracy; tests of the log loss, adjusted over the sites of a pair."""
    rows: list[Row] = []
    tests: list[Test] = []
    for pair in pairs(by_key(found, "probe_log_loss"), [name for name in found if name not in baselines]):
        a, b = pair.after, pair.before
        loss = replicate_mean(a.losses) - replicate_mean(b.losses)
        rows.append(pair.row(loss.estimate(Scale("nats"))))
        tests.append(pair.test(loss.student.p_zero()))
        for size in (size for size in a.few if size in b.few):
            few = Paired(pair.later, pair.earlier, pair.site, f"probe_of_{size}", a.few[size], b.few[size])
            rows.append(few.row(crossed_difference(few)))
        if a.control is not None and b.control is not None:
            change = (a.error - b.error).estimate(FRACTION.of_differences)
            rows.append(pair._replace(measure="probe_ece").row(change))
    return rows, with_holm(tests, lambda test: (test["checkpoint"], test["reference"]))


def _recalls(right: Mapping[str, Mapping[str, Bools]], labels: Labels) -> dict[str, dict[str, list[float | None]]]:
    """Return the recall of each class, None where no image has it."""
    counts = np.bincount(labels)
    return {
        name: {
            site: [round(float(h / n), 4) if n else None
                   for h, n in zip(np.bincount(labels, weights=found, minlength=len(counts)), counts, strict=True)]
            for site, found in sites.items()
        }
        for name, sites in right.items()
    }  # fmt: skip
