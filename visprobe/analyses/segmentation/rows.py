"""From what heads found to rows: scores with intervals over images, floors, paired differences with their tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import stdtr

from visprobe.analyses.core.estimates import estimate
from visprobe.analyses.segmentation.config import Of, Setting
from visprobe.analyses.segmentation.heads import Form, Found, Task, best_round, every_class, one_class, recall_by_round
from visprobe.metrics.intervals.jackknife import Replicated, jackknife, subtract
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.segmentation.class_tallies import (
    macro_f1,
    macro_precision,
    macro_recall,
    mean_iou,
    per_class,
    share_right,
)
from visprobe.results.result import Estimate, Role, Row

PIXELS = {"miou": mean_iou, "pixel_accuracy": share_right}
PATCHES = {"patch_recall": macro_recall, "patch_precision": macro_precision, "patch_f1": macro_f1}
_COMPARED = ("miou", "patch_recall", "patch_f1")
_METHOD = "delete-one jackknife 95 % over images, mean over seeds"

Scores = dict[str, Replicated]  # by measure
AllFound = Mapping[Of, Sequence[Mapping[Form, Found]]]  # by checkpoint and site, of each seed


def scores_of(found: Sequence[Mapping[Form, Found]], forms: Sequence[Form]) -> Scores:
    """Every measure of every form of head, mean over seeds."""
    scores: Scores = {}
    for form in forms:
        for name, statistic in {**PIXELS, **PATCHES}.items():
            tallies = [one[form].pixels if name in PIXELS else one[form].patches for one in found]
            scores[measure(name, form)] = _mean([statistic(one) for one in tallies])
    return scores


def measure(name: str, form: Form) -> str:
    """Name of a measure by a form of head."""
    return name if form == "linear" else f"{name}_{form}"


def _mean(each: Sequence[Replicated]) -> Replicated:
    return Replicated(float(np.mean([one.value for one in each])), np.mean([one.without for one in each], axis=0))


def published(task: Task, first: int, seeds: int, least_steps: int | None = None) -> Scores:
    """Recall by the published protocol, with its last round instead, and how much the choice of the round adds."""
    rounds = [recall_by_round(task, first + seed, least_steps) for seed in range(seeds)]
    best = _mean([macro_recall(each[best_round(each)]) for each in rounds])
    last = _mean([macro_recall(each[-1]) for each in rounds])
    return {"paper_patch_recall": best, "honest_patch_recall": last, "leak_patch_recall": subtract(best, last)}


def value_rows(scores: Mapping[Of, Scores], floors: set[str]) -> Iterator[Row]:
    """One row per checkpoint, site and measure."""
    for (checkpoint, site), own in scores.items():
        role: Role = "floor" if checkpoint in floors else "value"
        for name, replicated in own.items():
            yield Row(checkpoint, site, name, _fraction(replicated), role=role)


def _fraction(replicated: Replicated, least: float = 0.0) -> Estimate:
    interval = jackknife(replicated)
    low = interval.low if replicated.value < 0 or least < 0 else max(interval.low, 0.0)
    return estimate(interval._replace(low=low), "fraction", _METHOD)


def baseline_rows(setting: Setting, background: int | None) -> Iterator[Row]:
    """What needs no features: the most frequent class for every pixel, and every class for every patch."""
    seen: dict[str, Task] = {}
    for (_, site), task in setting.tasks.items():
        seen.setdefault(site, task)
    for site, task in seen.items():
        majority = one_class(task.val_labels, int(task.train_labels.pixels().argmax()))
        every = every_class(task.val_labels, task.grid, background)
        for name, statistic in PIXELS.items():
            yield Row("majority class", site, name, _fraction(statistic(majority)), role="floor")
        for name, statistic in PATCHES.items():
            yield Row("every class", site, name, _fraction(statistic(every)), role="floor")


def difference_rows(scores: Mapping[Of, Scores], names: Sequence[str]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Paired differences, and the tests of each pair and measure with p adjusted over sites."""
    rows: list[Row] = []
    tests: list[dict[str, Any]] = []
    for earlier, later in combinations(names, 2):
        sites = [site for name, site in scores if name == later and (earlier, site) in scores]
        measures = [name for site in sites[:1] for name in scores[later, site] if name.startswith(_COMPARED)]
        for name in measures:
            between = [subtract(scores[later, site][name], scores[earlier, site][name]) for site in sites]
            p = [_p(difference) for difference in between]
            for site, difference, raw, adjusted in zip(sites, between, p, holm(p), strict=True):
                rows.append(Row(later, site, name, _fraction(difference, -1), earlier, "difference"))
                what = {"checkpoint": later, "reference": earlier, "site": site, "measure": name}
                tests.append({**what, "p": raw, "p_holm": float(adjusted)})
    return rows, tests


def _p(difference: Replicated) -> float:
    """Two-sided p of no difference, by the t distribution of the jackknife."""
    interval = jackknife(difference, limit=float("inf"))
    if interval.standard_error == 0:
        return 1.0 if difference.value == 0 else 0.0
    return float(min(1.0, 2 * stdtr(interval.n - 1, -abs(difference.value) / interval.standard_error)))


def class_table(setting: Setting, found: AllFound, form: Form) -> dict[str, Any]:
    """IoU of each class, mean over seeds, None where the class occurs nowhere; and how many pixels it has."""
    task = next(iter(setting.tasks.values()))
    truth = next(iter(found.values()))[0][form].pixels.truth.sum(0)
    table: dict[str, dict[str, list[float | None]]] = {}
    for (checkpoint, site), each in found.items():
        iou = np.mean([per_class(one[form].pixels).iou for one in each], axis=0)
        values = [float(value) if count else None for value, count in zip(iou, truth, strict=True)]
        table.setdefault(checkpoint, {})[site] = values
    return {
        "class_iou": table,
        "class_names": list(setting.labels.classes),
        "class_pixels": [int(count) for count in truth],
        "class_pixels_train": [int(count) for count in task.train_labels.pixels()],
    }


def spread_over_seeds(found: AllFound) -> list[dict[str, Any]]:
    """The mIoU and patch recall of every seed: what another training of the head would give."""
    lines = []
    for (checkpoint, site), each in found.items():
        for form in each[0]:
            miou = [mean_iou(one[form].pixels).value for one in each]
            recall = [macro_recall(one[form].patches).value for one in each]
            what = {"checkpoint": checkpoint, "site": site, "head": form}
            lines.append({**what, "miou": miou, "patch_recall": recall, "miou_deviation": float(np.std(miou, ddof=1))}
                         if len(each) > 1 else {**what, "miou": miou, "patch_recall": recall})  # fmt: skip
    return lines
