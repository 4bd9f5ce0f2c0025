"""Which figure belongs to which analysis, in the order in which a report shows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from matplotlib.figure import Figure

from visprobe.analyses.accuracy import answers_figure as answers
from visprobe.analyses.accuracy import imagenet_figure as prototype_accuracy
from visprobe.analyses.accuracy import knn_figure as knn_accuracy
from visprobe.analyses.accuracy import zeroshot_figure as zeroshot
from visprobe.analyses.drift import drift_figure as representation_drift
from visprobe.analyses.drift import heads_figure as heads
from visprobe.analyses.drift import images_figure as images
from visprobe.analyses.drift import sites_figure as sites
from visprobe.analyses.drift import tokens_figure as tokens
from visprobe.analyses.language import align_figure as align
from visprobe.analyses.language import words_figure as words
from visprobe.analyses.probes import probe_figure as probe
from visprobe.analyses.robustness import robustness_figure as robustness
from visprobe.analyses.runs import runs_figure as arms
from visprobe.analyses.runs import trajectory_figure as trajectory
from visprobe.analyses.segmentation import segment_figure as segment
from visprobe.analyses.similarity import geometry_figure as geometry
from visprobe.analyses.similarity import similarity_figure as similarity
from visprobe.analyses.swap import swap_figure as swap
from visprobe.analyses.weights import spectrum_figure as spectrum
from visprobe.analyses.weights import weights_figure as weight_drift
from visprobe.attribution.figures import curves as attribution_curves
from visprobe.attribution.figures import report as attribution_report
from visprobe.attribution.figures import scores as attribution_scores
from visprobe.demo.attributes import figure as attributes
from visprobe.figures.captions import floors_of
from visprobe.results.result import Result


class Draw(Protocol):
    """A function that draws a result."""

    def __call__(self, result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
        """Draw `result` in the colours of all `checkpoints` of a report, so many inches wide."""


class Kind(NamedTuple):
    """A kind of figure.

    Attributes:
        name: Its file name.
        draw: Draws it.
        describe: Says what it shows, with n and the kind of interval.
        floor: What its numbers are read against, where no rows of role "floor" say it.
    """

    name: str
    draw: Draw
    describe: Callable[[Result], str]
    floor: str = ""

    def caption(self, result: Result) -> str:
        """What the figure of `result` shows, n, the kind of interval and the floors."""
        return f"{self.describe(result)} {self.floor or floors_of(result)}".rstrip()


_RANDOM = "Floor: a change of random direction, 1 in the middle and on the right."
_SINGLE = "Floors stand beside the scores over all images: a single map has none."

STRIPS = 4  # pictures that are followed through training, each in a figure of its own

KINDS = {
    "runs": Kind("arms_over_runs", arms.draw, arms.caption, "Floor: 0, no difference."),
    "trajectory": Kind("trajectory", trajectory.draw, trajectory.caption),
    "swap": Kind("swap", swap.draw, swap.caption),
    "imagenet": Kind("prototype_accuracy", prototype_accuracy.draw, prototype_accuracy.caption),
    "probe": Kind("linear_probe", probe.draw, probe.caption),
    "zeroshot": Kind("zeroshot_accuracy", zeroshot.draw, zeroshot.caption),
    "knn": Kind("knn_accuracy", knn_accuracy.draw, knn_accuracy.caption),
    "robustness": Kind("robustness", robustness.draw, robustness.caption),
    "segment": Kind("segmentation", segment.draw, segment.caption),
    "attributes": Kind("attributes", attributes.draw, attributes.caption),
    "drift": Kind("representation_drift", representation_drift.draw, representation_drift.caption),
    "weights": Kind("weight_drift", weight_drift.draw, weight_drift.caption, "Floor: 0, no weight moved."),
    "spectrum": Kind(
        "weight_spectrum",
        spectrum.draw,
        spectrum.caption,
        _RANDOM,
    ),
    "heads": Kind("heads", heads.draw, heads.caption),
    "sites": Kind("site_maps", sites.draw, sites.caption),
    "images": Kind("image_change", images.draw, images.caption),
    "tokens": Kind("token_change", tokens.draw, tokens.caption),
    "similarity": Kind("similarity", similarity.draw, similarity.caption),
    "geometry": Kind("geometry", geometry.draw, geometry.caption),
    "align": Kind("text_alignment", align.draw, align.caption),
    "words": Kind("nearest_words", words.draw, words.caption),
    "maps": Kind("maps", attribution_report.draw_maps, attribution_report.caption_of_maps, _SINGLE),
    "map_differences": Kind(
        "map_differences", attribution_report.draw_differences, attribution_report.caption_of_differences, _SINGLE
    ),
    "map_contrast": Kind(
        "map_contrast", attribution_report.draw_contrast, attribution_report.caption_of_contrast, _SINGLE
    ),
    "attribution": Kind("attribution_scores", attribution_scores.draw, attribution_scores.caption),
    "faithfulness": Kind("faithfulness", attribution_curves.draw, attribution_curves.caption, "Floor: random order."),
    **{
        f"map_strip_{n}": Kind(
            f"map_strip_{n}", attribution_report.draw_strip, attribution_report.caption_of_strip, _SINGLE
        )
        for n in range(1, STRIPS + 1)
    },
    "answers": Kind("answers", answers.draw, answers.caption),
}
