"""Segmentation by small heads on frozen patch features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from visprobe.analyses.accuracy.overlap import Overlap, overlap, overlap_settings, overlap_warnings
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import kinds_of, value_rows
from visprobe.analyses.segmentation.config import Of, SegmentationConfig, Setting, check_masks, setting_of
from visprobe.analyses.segmentation.examples import examples
from visprobe.analyses.segmentation.heads import FORMS, HELD, Form, HeadScores, found_by
from visprobe.analyses.segmentation.rows import (
    Scores,
    baseline_rows,
    class_table,
    edge_warnings,
    estimates,
    published,
    score_differences,
    scores_of,
    spread_over_seeds,
    trainings,
)
from visprobe.metrics.segmentation.patch_head import BATCH, RATES, ROUNDS, step_count
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

QUESTION = "Can a small head on frozen patch features say what is where in an image, better than before post-training?"


def segment(inputs: Inputs, asked: SegmentationConfig) -> Result:
    """Train heads on frozen patch features of the support images and evaluate them on the others.

    Args:
        inputs: Tokens at some sites, of both splits, and the images with their masks.
        asked: Options.

    Returns:
        Rows per checkpoint and site: "miou", "pixel_accuracy", "patch_recall", "patch_precision", "patch_f1" (of
        two-layer heads with "_mlp" appended), fractions in [0, 1], mean over seeds, intervals over images; paired
        differences of checkpoints. Baselines: untrained towers, one class everywhere, every class everywhere.

    Raises:
        DataError: If there are no masks or no training images, or the features do not fit.

    Source:
        "RL makes MLLMs see better than SFT" (2510.16333), appendix E.5, for patches; mIoU as in PASCAL VOC.
    """
    setting = setting_of(inputs, asked)
    scores: dict[Of, Scores] = {}
    found: dict[Of, list[dict[Form, HeadScores]]] = {}
    for of, task in setting.tasks.items():
        seeds = range(inputs.seed, inputs.seed + asked.seeds)
        found[of] = [found_by(task, asked.heads, seed, asked.least_steps) for seed in seeds]
        scores[of] = scores_of(found[of], asked.heads)
    tasks = setting.tasks if asked.paper else {}
    paper = {of: published(task, inputs.seed, asked.seeds, asked.least_steps) for of, task in tasks.items()}
    baselines = kinds_of(inputs.baselines)
    rows = [
        *value_rows(estimates(scores), baselines),
        *value_rows(estimates(paper), baselines),
        *baseline_rows(setting, asked.background),
    ]
    differences, tests = score_differences(scores, [f.encoder for f in (inputs.base, *inputs.others)])
    shared = overlap(inputs.base, inputs.support[0])
    settings = _settings(inputs, setting, asked) | overlap_settings(shared) | {"tests": tests}
    settings |= class_table(setting, found, asked.heads[0])
    settings |= trainings(found) | {"seeds_spread": spread_over_seeds(found)}
    settings["examples"] = examples(inputs, setting.views[inputs.base.encoder], setting.tasks, found, asked.heads[0])
    warnings = (*_warnings(setting, inputs, shared), *edge_warnings(settings["chosen"]))
    return Result("segment", QUESTION, (*rows, *differences), settings, warnings)


def _settings(inputs: Inputs, setting: Setting, asked: SegmentationConfig) -> dict[str, Any]:
    steps = step_count(len(setting.train_ids) - max(1, len(setting.train_ids) // HELD), asked.least_steps)
    return {
        "base": inputs.base.encoder,
        "consumed": inputs.base.consumed,
        "images": inputs.base.images,
        "n": len(setting.val_ids),
        "support": inputs.support[0].images,
        "n_support": len(setting.train_ids),
        "heads": list(asked.heads),
        "seeds": asked.seeds,
        "ignored": sorted(setting.labels.ignored),
        "background": asked.background,
        "grids": {site: list(task.grid) for (_, site), task in setting.tasks.items()},
        "training": f"AdamW, {steps} steps of {BATCH} images, rates falling to a tenth; "
        f"rate and one of {ROUNDS} rounds by the loss on one training image in {HELD}, which is not trained on",
        "rates": {form: list(RATES[FORMS[form]]) for form in asked.heads},
        "threshold": 0.5,
        "multiplicity": "Holm over sites, for each pair of checkpoints and measure",
        "without_mask": {name: [list(one) for one in ones] for name, ones in setting.left_out.items()},
    }


def _warnings(setting: Setting, inputs: Inputs, shared: Overlap) -> Iterator[str]:
    yield from overlap_warnings(shared, inputs.base, inputs.support[0])
    for name, ones in setting.left_out.items():
        if ones:
            yield f"{len(ones)} images of {name} were left out, first {ones[0][0]}: {ones[0][1]}"
    for checkpoint, site in setting.without_grid:
        yield f"{checkpoint}: the tokens at {site} lie on no grid, so they were left out"
    task = next(iter(setting.tasks.values()))
    unseen = (task.train_labels.pixels() == 0) & (task.val_labels.pixels() > 0)
    if names := [setting.labels.classes[number] for number in np.flatnonzero(unseen)]:
        yield f"{', '.join(names)}: in the masks of {inputs.base.images}, never in training: no head was taught them"
    if len({view.key for view in setting.views.values()}) > 1:
        yield "the checkpoints see different parts of the images: each is tried on the pixels that it sees"


def _needs(encoder: VisionEncoder) -> list[str]:
    return ["consumed:tokens", "projected:tokens"] if encoder.has_projector else ["consumed:tokens"]


SEGMENT = Analysis(
    name="segment",
    question=QUESTION,
    needs=_needs,
    run=partial(segment, asked=SegmentationConfig()),
    baselines="untrained",
    fixed_grid=True,
    support=True,
    check=check_masks,
    presentation=Presentation(
        titles={
            **{
                measure + suffix: f"{title}, {head} head on frozen patches"
                for suffix, head in (("", "linear"), ("_mlp", "two-layer"))
                for measure, title in {
                    "miou": "Mean IoU",
                    "pixel_accuracy": "Pixel accuracy",
                    "patch_recall": "Macro recall of patches",
                    "patch_precision": "Macro precision of patches",
                    "patch_f1": "Macro F1 of patches",
                }.items()
            },
            "paper_patch_recall": "Macro recall of patches as published: best epoch on the images reported",
            "honest_patch_recall": "Macro recall of patches as published, but after the last epoch",
            "leak_patch_recall": "What choosing the epoch on the images reported adds to recall",
        },
        figures=(FigureSpec("segmentation", "visprobe.analyses.segmentation.segment_figure"),),
        place=90,
    ),
)


def segment_analysis(asked: SegmentationConfig) -> Analysis:
    """Return the analysis with these options."""
    return replace(SEGMENT, run=partial(segment, asked=asked))
