"""Does the encoder still see when images are damaged, small or cropped?"""

from __future__ import annotations

from collections.abc import Iterator

from visprobe.analyses.accuracy.overlap import duplicates, overlap_settings
from visprobe.analyses.accuracy.task import make_task
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.analyses.robustness.rows import change_differences, curves, error_rows, stability_rows
from visprobe.analyses.robustness.scores import Scored, right_scores, stability_scores
from visprobe.analyses.robustness.variants import Plan
from visprobe.data.labels.annotated import no_classes
from visprobe.features.requests import read_sites
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result

QUESTION = "How much of what the encoder sees is left when images are damaged, and more than before post-training?"
IMAGES = 1000
_FEWEST = 6  # images of which a CKA without any one of them can be taken


def robustness(plan: Plan | None = None) -> Analysis:
    """The analysis for a choice of changes.

    Args:
        plan: The changes; by default four corruptions at severities 1, 3 and 5.
    """
    chosen = plan or Plan()
    return Analysis(
        name="robustness",
        question=QUESTION,
        needs=read_sites,
        run=measure_robustness,
        images=IMAGES,
        floors="untrained",
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
    """What changed copies of the images do to every checkpoint, at the consumed site and after the projector.

    Args:
        inputs: With `variants` as `Plan.variants` names them. Prototypes come from clean support images; where there
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
    labelled, floors = inputs.base.labels is not None, [floor.encoder for floor in inputs.floors]
    if labelled:
        task = make_task(inputs.all, inputs.support or None)
        scored = right_scores(inputs, task)
        rows, settings, warnings = [*error_rows(scored, floors)], task.settings(), [*task.warnings()]
    else:
        scored = stability_scores(inputs, tuple(align(inputs.all)))
        unlabelled = no_classes(inputs.images) if inputs.images else f"{inputs.base.images} has no classes"
        rows, settings, warnings = (
            [*stability_rows(scored, floors)],
            # Nothing is learned from other images; copies within the set are counted as if they were news.
            common_settings(inputs.base) | overlap_settings(duplicates(inputs.base)),
            [_NO_CLASSES.format(unlabelled)],
        )
    differences, tests = change_differences(scored, "error" if labelled else "steady")
    settings |= {"measure": "top1" if labelled else "cosine", "tests": tests, "curves": curves(scored)}
    settings |= {"sites": [*dict.fromkeys(one.site for one in scored)], "floors": floors}
    return Result("robustness", QUESTION, (*rows, *differences), settings, (*warnings, *_nothing_kept(scored)))


_NO_CLASSES = "{}; how far features move is measured, not whether they still tell classes apart"


def _nothing_kept(scored: list[Scored]) -> Iterator[str]:
    for one in scored:
        if one.clean is not None and one.clean.sum() < 2:
            yield f"{one.checkpoint} finds the class of no two clean images at {one.site}: no share of that can be kept"


ROBUSTNESS = robustness()
