"""Rows of segmentation scores with intervals, baselines and paired differences, and how heads were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from visprobe.analyses.core.differences import Key, Paired, Test, tested_differences
from visprobe.analyses.segmentation.config import Of, Setting
from visprobe.analyses.segmentation.heads import (
    FORMS,
    Form,
    HeadScores,
    Task,
    best_round,
    every_class,
    one_class,
    recall_by_round,
)
from visprobe.metrics.intervals.estimate import FRACTION, Scale
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.segmentation.class_tallies import (
    macro_f1,
    macro_precision,
    macro_recall,
    mean_iou,
    per_class,
    share_right,
)
from visprobe.metrics.segmentation.patch_head import RATES, ROUNDS
from visprobe.results.result import Estimate, Row

PIXELS = {"miou": mean_iou, "pixel_accuracy": share_right}
PATCHES = {"patch_recall": macro_recall, "patch_precision": macro_precision, "patch_f1": macro_f1}
_COMPARED = ("miou", "patch_recall", "patch_f1")
_MEANS = {
    "smallest rate": "smaller learning rates might find more",
    "largest rate": "larger learning rates might find more",
    "first round": "the training is too coarse to stop at the best time",
    "last round": "a longer training (--steps) might find more",
}

Scores = dict[str, Replicated]  # by measure
AllFound = Mapping[Of, Sequence[Mapping[Form, HeadScores]]]  # by checkpoint and site, of each seed


def scores_of(found: Sequence[Mapping[Form, HeadScores]], forms: Sequence[Form]) -> Scores:
    """Compute every measure of every form of head, mean over seeds."""
    scores: Scores = {}
    for form in forms:
        for name, statistic in {**PIXELS, **PATCHES}.items():
            tallies = [one[form].pixels if name in PIXELS else one[form].patches for one in found]
            scores[measure(name, form)] = _mean([statistic(one) for one in tallies])
    return scores


def measure(name: str, form: Form) -> str:
    """Return the name of a measure for a form of head."""
    return name if form == "linear" else f"{name}_{form}"


def _mean(each: Sequence[Replicated]) -> Replicated:
    return Replicated(float(np.mean([one.value for one in each])), np.mean([one.without for one in each], axis=0))


def published(task: Task, first: int, seeds: int, least_steps: int | None = None) -> Scores:
    """Compute recall by the published protocol, with its last round instead, and what choosing the round adds."""
    rounds = [recall_by_round(task, first + seed, least_steps) for seed in range(seeds)]
    best = _mean([macro_recall(each[best_round(each)]) for each in rounds])
    last = _mean([macro_recall(each[-1]) for each in rounds])
    return {"paper_patch_recall": best, "honest_patch_recall": last, "leak_patch_recall": best - last}


def _estimate(replicated: Replicated, scale: Scale) -> Estimate:
    return replace(replicated.estimate(scale), method="delete-one jackknife 95 % over images, mean over seeds")


def estimates(scores: Mapping[Of, Scores]) -> dict[Key, Estimate]:
    """Return every score with its interval, by checkpoint, site and measure."""
    return {
        (checkpoint, site, name): _estimate(one, FRACTION if one.value >= 0 else FRACTION.of_differences)
        for (checkpoint, site), own in scores.items()
        for name, one in own.items()
    }


def baseline_rows(setting: Setting, background: int | None) -> Iterator[Row]:
    """Yield baselines without features: the majority class for every pixel, and every class for every patch."""
    seen: dict[str, Task] = {}
    for (_, site), task in setting.tasks.items():
        seen.setdefault(site, task)
    for site, task in seen.items():
        majority = one_class(task.val_labels, int(task.train_labels.pixels().argmax()))
        every = every_class(task.val_labels, task.grid, background)
        for name, statistic in PIXELS.items():
            yield Row(
                "majority class",
                site,
                name,
                _estimate(statistic(majority), FRACTION),
                role="baseline",
                baseline="chance",
            )
        for name, statistic in PATCHES.items():
            yield Row(
                "every class", site, name, _estimate(statistic(every), FRACTION), role="baseline", baseline="chance"
            )


def score_differences(scores: Mapping[Of, Scores], names: Sequence[str]) -> tuple[list[Row], list[Test]]:
    """Compute paired differences, and tests with p adjusted over the sites of each pair and measure."""
    measures = dict.fromkeys(name for own in scores.values() for name in own if name.startswith(_COMPARED))
    found = {(*of, name): own[name] for name in measures for of, own in scores.items() if name in own}
    return tested_differences(found, names, _difference)


def _difference(pair: Paired[Replicated]) -> tuple[Estimate, float]:
    change = pair.after - pair.before
    return _estimate(change, FRACTION.of_differences), change.student.p_zero()


def class_table(setting: Setting, found: AllFound, form: Form) -> dict[str, Any]:
    """Return IoU of each class, mean over seeds, None where the class occurs nowhere; and its number of pixels."""
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
    """Return mIoU and patch recall of every seed: the spread over trainings of the head."""
    lines = []
    for (checkpoint, site), each in found.items():
        for form in each[0]:
            miou = [mean_iou(one[form].pixels).value for one in each]
            recall = [macro_recall(one[form].patches).value for one in each]
            what = {"checkpoint": checkpoint, "site": site, "head": form}
            lines.append({**what, "miou": miou, "patch_recall": recall, "miou_deviation": float(np.std(miou, ddof=1))}
                         if len(each) > 1 else {**what, "miou": miou, "patch_recall": recall})  # fmt: skip
    return lines


def trainings(found: AllFound) -> dict[str, Any]:
    """Return rate and round chosen for each head, and the edges that they lie on."""
    chosen = [
        {
            "checkpoint": name,
            "site": site,
            "head": form,
            "seed": seed,
            "target": one.head.kind.target,
            "rate": one.head.kind.rate,
            "round": one.round,
            "edges": list(one.edges),
        }
        for (name, site), each in found.items()
        for seed, of_seed in enumerate(each)
        for form, own in of_seed.items()
        for one in own.chosen
    ]
    return {"chosen": chosen}


def edge_warnings(chosen: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a warning for each form of head and each edge of the grid that choices lie on."""
    for form, hidden in FORMS.items():
        own = [one for one in chosen if one["head"] == form]
        tried = {"smallest rate": min(RATES[hidden]), "largest rate": max(RATES[hidden]), "first round": 1}
        for edge, meaning in _MEANS.items():
            if at := [one for one in own if edge in one["edges"]]:
                first = at[0]
                yield (
                    f"{len(at)} of {len(own)} {form} heads do best with the {edge} that was tried "
                    f"({tried.get(edge, ROUNDS):g}; first {first['checkpoint']} at {first['site']}): {meaning}"
                )
