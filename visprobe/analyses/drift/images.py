"""Change of single images, of classes that stand out, and agreement of descendants on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from visprobe.analyses.core.analysis import Analysis
from visprobe.analyses.core.differences import Paired, difference_rows, kinds_of, value_rows
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import naming, refuse_fewer
from visprobe.analyses.drift.class_change import ClassChange, class_changes
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import replicate_mean
from visprobe.metrics.intervals.quantiles import quantile, spearman
from visprobe.metrics.similarity.relative_error import Moved, unaligned
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Row

QUESTION = "Which images moved most, does any class stand out, and do the checkpoints move the same images?"

_SHOWN = 24
_MOST_CLASSES = 12
_QUANTILES = {"median": 0.5, "5 % quantile": 0.05, "95 % quantile": 0.95}
_SAME = 1e-6  # above the relative errors of float32 sums in another order


def image_changes(base: FeatureSet, others: Sequence[FeatureSet], baselines: Sequence[FeatureSet] = ()) -> Result:
    """Measure how far the features of every image moved at the site that the language model reads.

    Args:
        base: Pooled features, float of shape (n, d), under the base; units correspond.
        others: Features of the same images under its descendants.
        baselines: Features of the same images under "untrained" and "<base> (bfloat16)".

    Returns:
        Rows "image_change/…" (length of the difference over that of the base's features, >= 0) and "image_cosine/…"
        (in [-1, 1]): mean, median, 5 % and 95 % quantile; "class_change/<class>", the mean over the images of the
        classes that moved more or less than the rest, with intervals valid for all classes together;
        "image_agreement/with <name>", the rank correlation of two checkpoints' changes; paired differences of mean
        changes. The most changed images are in settings["most_changed"], all classes in settings["per_class"].

    Raises:
        DataError: If there are fewer than five images, they are not the same for all, or features are zero or not
            finite.

    Source:
        Intervals of quantiles: David & Nagaraja 2003, section 7.1; of rank correlations: Bonett & Wright 2000; over
        classes: Welch 1947 with Holm 1979.
    """
    base, *rest = align([base, *others, *baselines])
    refuse_fewer(base, 5, "a distribution of changes")
    names = [features.encoder for features in others]
    moved = {features.encoder: _moved(base, features) for features in rest}
    still = [name for name in names if moved[name].relative_error.max() < _SAME]
    changing = [name for name in names if name not in still]
    per_class = {name: class_changes(moved[name].relative_error, base) for name in changing}
    numbers = {
        (name, base.consumed, measure): estimate
        for name, one in moved.items()
        if name not in still
        for measure, estimate in _distribution(one).items()
    }
    errors = {(name, base.consumed, "image_change/mean"): one.relative_error for name, one in moved.items()}
    rows = (
        *value_rows(numbers, kinds_of(baselines), base.encoder),
        *_class_rows(per_class, base),
        *_agreement(moved, changing, base),
        *difference_rows(errors, changing, _difference),
    )
    settings = {
        **common_settings(base),
        "identical": still,
        "distribution": {name: _percentiles(one.relative_error) for name, one in moved.items() if name not in still},
        "most_changed": {name: _most_changed(moved[name].relative_error, base) for name in changing},
        "per_class": {name: [one.to_json() for one in changes] for name, changes in per_class.items()},
    }
    return Result("images", QUESTION, rows, settings, tuple(_warnings(base, still)))


def _moved(base: FeatureSet, features: FeatureSet) -> Moved:
    with naming(features, base.consumed, "the change of an image"):
        return unaligned(base.sites[base.consumed], features.sites[base.consumed])


def _distribution(moved: Moved) -> dict[str, Estimate]:
    found = {}
    for measure, values, unit in (("change", moved.relative_error, "ratio"), ("cosine", moved.cosine, "cosine")):
        found[f"image_{measure}/mean"] = replicate_mean(values).estimate(Scale(unit))
        for name, q in _QUANTILES.items():
            if number := quantile(values, q, unit):
                found[f"image_{measure}/{name}"] = number
    return found


def _difference(pair: Paired[Array]) -> Estimate:
    return replicate_mean(pair.after - pair.before).estimate(Scale("ratio"))


def _class_rows(per_class: Mapping[str, Sequence[ClassChange]], base: FeatureSet) -> Iterator[Row]:
    """Yield rows of the classes that stand out under any checkpoint, by excess, at most a dozen."""
    excess: dict[str, float] = {}
    for changes in per_class.values():
        for one in changes:
            if one.stands_out:
                excess[one.name] = max(excess.get(one.name, 0.0), abs(one.excess))
    shown = sorted(excess, key=lambda name: (-excess[name], name))[:_MOST_CLASSES]
    for checkpoint, changes in per_class.items():
        by_name = {one.name: one for one in changes}
        for name in shown:
            measure = f"class_change/{name}"
            yield Row(checkpoint, base.consumed, measure, by_name[name].mean, base.encoder)


def _agreement(moved: Mapping[str, Moved], names: Sequence[str], base: FeatureSet) -> Iterator[Row]:
    """Yield rank correlations of changes: between descendants, and of each with rounding."""
    rounded = f"{base.encoder} (bfloat16)"
    varying = [name for name, one in moved.items() if np.ptp(one.relative_error) > 0]
    pairs = [*combinations(names, 2), *((rounded, name) for name in names)]
    for earlier, later in pairs:
        if earlier in varying and later in varying:
            estimate = spearman(moved[earlier].relative_error, moved[later].relative_error)
            yield Row(later, base.consumed, f"image_agreement/with {earlier}", estimate, earlier)


def _percentiles(values: Array) -> list[float]:
    """Return the 0th to the 100th percentile, for figures."""
    return [float(f"{value:.6g}") for value in np.percentile(values, np.arange(101))]


def _most_changed(errors: Array, base: FeatureSet) -> list[dict[str, Any]]:
    order = np.argsort(-errors, kind="stable")[:_SHOWN]
    return [
        {"id": base.item_ids[row], "class": _class_of(base, int(row)), "change": round(float(errors[row]), 6)}
        for row in order
    ]


def _class_of(features: FeatureSet, row: int) -> str | None:
    if features.labels is None or features.classes is None:
        return None
    return features.classes[int(features.labels[row])]


def _warnings(base: FeatureSet, still: Sequence[str]) -> Iterator[str]:
    for name in still:
        yield f"{name}: no image's features moved at {base.consumed}"
    if len(base.item_ids) < 72:
        yield f"{len(base.item_ids)} images are too few for intervals of the 5 % and 95 % quantiles, which need 72"


IMAGES = Analysis(
    name="images",
    question=QUESTION,
    needs=lambda encoder: ["consumed"],
    run=lambda inputs: image_changes(inputs.base, inputs.others, inputs.baselines),
    presentation=Presentation(
        titles={
            "image_change": "Relative change of an image's features",
            "image_cosine": "Cosine of an image's features with the base's",
            "class_change": "Mean relative change of classes that stand out",
            "image_agreement": "Rank correlation of two checkpoints' changes over images",
        },
        figures=(FigureSpec("image_change", "visprobe.analyses.drift.images_figure"),),
        place=160,
        drawn_settings=("distribution", "most_changed", "per_class", "thumbnails"),
    ),
)
