"""Linear probes of classes, labels or numbers from an encoder's features, with baselines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from visprobe.analyses.accuracy.task import check_task
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.probes.classes import class_probes
from visprobe.analyses.probes.config import ProbeConfig
from visprobe.analyses.probes.data import class_task, target_task, targets_of
from visprobe.analyses.probes.targets import target_probes
from visprobe.data.image_set import ImageSet
from visprobe.errors import DataError, UsageError
from visprobe.features.requests import read_sites
from visprobe.metrics.classifiers.label_draws import PER_CLASS
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

QUESTION = "What can a linear probe read from the encoder's features, and more than before post-training?"


def probe_analysis(how: ProbeConfig) -> Analysis:
    """Return the analysis "probe" with these options.

    Raises:
        UsageError: If a number is out of range.
    """
    if how.seeds < 2 or not how.per_class or min(how.per_class) < 1:
        raise UsageError(
            f"{how.seeds} seeds of {', '.join(map(str, how.per_class))} images per class cannot be drawn",
            hint="Give two seeds or more and numbers from 1 up, as --seeds 5 --per-class 1,5,10.",
        )
    return Analysis(
        name="probe",
        question=QUESTION,
        needs=partial(_needs, how),
        run=partial(_run, how),
        baselines="untrained",
        support=True,
        check=partial(_check, how),
        presentation=Presentation(
            titles={
                "probe_top1": "Top-1 accuracy of a linear probe",
                "probe_log_loss": "Log loss of a linear probe, nats",
                **{
                    f"probe_of_{n}": f"Top-1 accuracy of a linear probe that saw {n} image{'s' * (n > 1)} per class"
                    for n in PER_CLASS
                },
                "probe_macro_recall": "Recall of a linear probe, mean over classes",
                "probe_ece": "Calibration error of a linear probe",
                "probe_brier": "Brier score of a linear probe",
                "probe_control": "Top-1 accuracy of a linear probe that learned random labels",
                "probe_selectivity": "Selectivity: top-1 of a linear probe less that of random labels",
                "probe_map": "Mean average precision of linear probes",
                "probe_macro_f1": "F1 of linear probes, mean over labels",
                "probe_macro_auroc": "Area under the ROC curve of linear probes, mean over labels",
                "probe_r2": "Held-out R² of a linear probe",
            },
            figures=(FigureSpec("linear_probe", "visprobe.analyses.probes.probe_figure"),),
            place=50,
            columns={"probe": "probe", "probe_top1": "probe"},
        ),
    )


def _needs(how: ProbeConfig, encoder: VisionEncoder) -> list[str]:
    sites = [site.name for site in encoder.sites] if how.sites == "all" else read_sites(encoder)
    return [*sites, f"{encoder.consumed}:cls"] if encoder.has_class_token else sites


def _check(how: ProbeConfig, images: ImageSet, support: ImageSet | None) -> None:
    """Refuse images without classes or targets that can be learned, or with others in the train split."""
    if _kind(how, images) == "classes":
        return check_task(images, support)
    names = [targets_of(part, how.targets).names for part in (images, support) if part is not None]
    if names[0] != names[-1]:
        raise DataError(f"{images.name} and its train split have other targets", hint="Give both the same columns.")


def _kind(how: ProbeConfig, images: ImageSet | None) -> str:
    if how.targets == "classes" or (how.targets == "auto" and (images is None or images.classes is not None)):
        return "classes"
    return "targets"


def _run(how: ProbeConfig, inputs: Inputs) -> Result:
    device = str(inputs.encoders[0].device)
    if _kind(how, inputs.images) == "targets":
        return target_probes(target_task(inputs, how.targets), QUESTION, inputs.seed, device)
    task, protocol = class_task(inputs)
    return class_probes(task, protocol, QUESTION, how, inputs.seed, device)


PROBE = probe_analysis(ProbeConfig())
