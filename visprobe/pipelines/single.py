"""Functions behind the measuring commands: imagenet, probe, segment, robust, align."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from visprobe.analyses.accuracy.zeroshot import with_text_tower
from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.core.registry import available, chosen
from visprobe.analyses.language.align import align_analysis
from visprobe.analyses.language.words import WORDS
from visprobe.analyses.probes.config import ProbeConfig
from visprobe.analyses.probes.probe import probe_analysis
from visprobe.analyses.robustness.robustness import robustness
from visprobe.analyses.robustness.variants import FEW, Plan
from visprobe.analyses.segmentation.config import SegmentationConfig
from visprobe.analyses.segmentation.segment import segment_analysis
from visprobe.data.templates import TEMPLATES
from visprobe.encoders.text.text_tower import has_text_tower
from visprobe.features.text import LanguageModel, TextFeatures
from visprobe.io.disk import plain_errors
from visprobe.metrics.classifiers.label_draws import PER_CLASS
from visprobe.pipelines.measure import measure
from visprobe.pipelines.measurement import Measurement, Options, as_list
from visprobe.pipelines.session import run_on

ASKED = ("imagenet", "knn", "probe")  # defaults of `imagenet`, which adds zero-shot where there is a text tower
Checkpoints = str | Path | Sequence[str | Path]


@plain_errors
def imagenet(
    checkpoints: Checkpoints,
    data: str | Path,
    options: Options | None = None,
    *,
    analyses: Sequence[str] | None = None,
    paper: bool = False,
    text_tower: str | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> Measurement:
    """Measure how well encoders tell classes of images apart, before and after the projector.

    Args:
        checkpoints: One or more, folders or hub ids; differences are taken to the first.
        data: A labelled image set, as `visprobe.data.open.open_images` understands it.
        options: Options of the measurement.
        analyses: Names of analyses; by default `ASKED`, and "zeroshot" where there is a text tower.
        paper: Also report the number of the published protocol, and its leak.
        text_tower: Two-tower model whose text tower reads class names, for towers without one.
        templates: Sentences with {} for a class name.

    Returns:
        Accuracies as fractions of 1, with 95 % intervals over images, an untrained tower as baseline and paired
        differences to the first checkpoint.

    Raises:
        UsageError: If an analysis does not exist.
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.imagenet(["base", "dpo"], "ILSVRC2012", visprobe.Options(limit=5000))`
    """
    names = list(analyses) if analyses is not None else [name for name in ASKED if name in available()]
    own_text = text_tower is not None or tuple(templates) != tuple(TEMPLATES)
    if analyses is None and (own_text or any(has_text_tower(one) for one in as_list(checkpoints))):
        names.append("zeroshot")
    asked = chosen([*names, *(["paper_protocol"] if paper else [])])
    if own_text:
        zeroshot = with_text_tower(text_tower, tuple(templates))
        asked = [zeroshot if analysis.name == zeroshot.name else analysis for analysis in asked]
    classes = probe_analysis(
        ProbeConfig(targets="classes")
    )  # on images without any, targets would answer another question
    asked = [classes if analysis.name == classes.name else analysis for analysis in asked]
    return measure(checkpoints, data, asked, options)


@plain_errors
def probe(
    checkpoints: Checkpoints,
    data: str | Path,
    options: Options | None = None,
    *,
    targets: str = "auto",
    sites: Literal["read", "all"] = "read",
    per_class: Sequence[int] = PER_CLASS,
    seeds: int = 5,
) -> Measurement:
    """Train linear probes on the features of encoders and measure what they predict.

    Args:
        checkpoints: One or more, folders or hub ids; differences are taken to the first.
        data: Images with classes, labels or numbers.
        options: Options of the measurement.
        targets: "classes", "labels", "numbers", the name of one target, or "auto".
        sites: "read", where the language model reads, or "all".
        per_class: Numbers of labelled images per class for few-label probes.
        seeds: Number of random draws of these images.

    Returns:
        Accuracies, F1 and recall as fractions of 1, log loss in nats and R², each with a 95 % interval over images, an
        untrained tower as baseline and paired differences to the first checkpoint.

    Raises:
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.probe(["base", "dpo"], "digits", targets="classes")`
    """
    how = ProbeConfig(targets, sites, tuple(sorted({*per_class})), seeds)
    return measure(checkpoints, data, [probe_analysis(how)], options)


@plain_errors
def segment(
    checkpoints: Checkpoints,
    data: str | Path,
    options: Options | None = None,
    *,
    heads: Sequence[Literal["linear", "mlp"]] = ("linear",),
    seeds: int = 3,
    ignored: Sequence[int] = (),
    background: int | None = None,
    paper: bool = False,
    steps: int | None = None,
) -> Measurement:
    """Train segmentation heads on frozen patch features and measure their masks.

    Args:
        checkpoints: One or more, folders or hub ids; differences are taken to the first.
        data: Images with masks, with a train split.
        options: Options of the measurement.
        heads: Kinds of heads, "linear" or "mlp".
        seeds: Number of trainings of each head.
        ignored: Values in the masks that are no class.
        background: Class that a patch holds only if it holds no other.
        paper: Also run the published protocol, which trains two-layer heads.
        steps: Least number of steps of each training; by default 300.

    Returns:
        Mean IoU, pixel accuracy and recall, precision and F1 of patches as fractions of 1, each with a 95 % interval
        over images, an untrained tower as baseline and paired differences to the first checkpoint.

    Raises:
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.segment(["base", "dpo"], "digits", heads=("linear", "mlp"))`
    """
    asked = SegmentationConfig(tuple(heads), seeds, tuple(ignored), background, paper, steps)
    return measure(checkpoints, data, [segment_analysis(asked)], options)


@plain_errors
def robust(
    checkpoints: Checkpoints,
    data: str | Path,
    options: Options | None = None,
    *,
    corruptions: Sequence[str] = FEW,
    severities: Sequence[int] = (1, 3, 5),
    resolutions: Sequence[int] = (),
    crops: Sequence[float] = (),
) -> Measurement:
    """Measure accuracy and stability of features on images that are corrupted, reduced or cropped.

    Args:
        checkpoints: One or more, folders or hub ids; differences are taken to the first.
        data: Images, with classes for accuracies.
        options: Options of the measurement.
        corruptions: Names in `visprobe.data.corruptions.CORRUPTIONS`.
        severities: Severities from 1 to 5.
        resolutions: Lengths of the shorter side, in pixels, that images are reduced to.
        crops: Sizes of centre crops, as shares of each side.

    Returns:
        Errors and shares of the accuracy that is kept as fractions of 1, cosines and CKA of changed and unchanged
        images, each with an interval over images, an untrained tower as baseline and paired differences to the first.

    Raises:
        UsageError: If a corruption, severity, resolution or crop is not valid, or none is given.
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.robust(["base", "dpo"], "digits", corruptions=("gaussian_noise",), severities=(3,))`
    """
    plan = Plan(tuple(corruptions), tuple(severities), tuple(resolutions), tuple(crops))
    return measure(checkpoints, data, [robustness(plan)], options)


@plain_errors
def align(
    checkpoints: Checkpoints,
    data: str | Path,
    options: Options | None = None,
    *,
    language_models: Sequence[str] = (),
    protocol: Literal["fixed", "paper"] = "fixed",
) -> Measurement:
    """Measure how far encoders' features agree with language models that read captions, and with words of their LLM.

    Args:
        checkpoints: One or more, folders or hub ids; differences are taken to the first.
        data: Images, with captions where language models are named.
        options: Options of the measurement.
        language_models: Folders or hub ids; without any, only words are compared.
        protocol: "fixed": fixed layers; "paper": the largest value over layers of clamped features, as published.

    Returns:
        Shares of neighbours that features have in common with language models (fractions of 1), CKNNA and CKA, and how
        near patches lie to words of the LLM, each with intervals, baselines and paired differences to the first.

    Raises:
        CheckpointError, DataError: If a checkpoint, a language model or the images cannot be used.

    Example:
        `visprobe.align(["base", "dpo"], "captioned-photos", language_models=["Qwen/Qwen2.5-1.5B"])`
    """
    options = options or Options()
    models = [LanguageModel(spec, *run_on(options)) for spec in dict.fromkeys(language_models)]
    store = options.feature_store()

    def texts(captions: Sequence[str]) -> list[TextFeatures]:
        return [model.features(captions, store, options.progress) for model in models]

    aligned: list[Analysis] = [align_analysis(texts, protocol)] if models else []
    return measure(checkpoints, data, [*aligned, WORDS], options)
