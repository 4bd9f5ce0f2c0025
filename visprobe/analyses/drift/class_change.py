"""Mean change of each class, tested against that of all other images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.results.result import Estimate

FEWEST = 10  # images of a class; with fewer the t law of its mean does not hold
_ERROR_RATE = 0.05


@dataclass(frozen=True)
class ClassChange:
    """Change of one class's images.

    Attributes:
        name: Name of the class.
        mean: Mean change over its images; the interval holds for all classes together.
        excess: Mean minus that of all other images.
        p: Holm-adjusted p of no excess, tested on the logarithms of the changes.
    """

    name: str
    mean: Estimate
    excess: float
    p: float

    @property
    def stands_out(self) -> bool:
        """True if the excess is significant with one error rate over all classes."""
        return self.p <= _ERROR_RATE

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, for settings."""
        numbers = {"mean": self.mean.value, "low": self.mean.low, "high": self.mean.high, "excess": self.excess}
        return {"class": self.name, "n": self.mean.n, **{k: round(v, 6) for k, v in numbers.items()}, "p": self.p}


def class_changes(changes: Array, features: FeatureSet) -> list[ClassChange]:
    """Test every class of ten images or more against all other images.

    Args:
        changes: Change of each image, > 0, shape (n,).
        features: Features of the images, with labels; without labels there are no classes.

    Returns:
        Classes in the order of `features.classes`; none if fewer than two have enough images.

    Source:
        Welch 1947; Holm 1979 over classes. Changes are skewed to the right, so the test is on their logarithms: it
        asks for a ratio of typical changes.
    """
    if features.labels is None or features.classes is None:
        return []
    counts = np.bincount(features.labels, minlength=len(features.classes))
    kept = [label for label, count in enumerate(counts) if count >= FEWEST and len(changes) - count >= FEWEST]
    if len(kept) < 2:
        return []
    logs = np.log(np.maximum(changes, np.finfo(np.float64).tiny))
    adjusted = holm([_welch_p(logs, features.labels == label) for label in kept])
    return [
        ClassChange(
            features.classes[label],
            _mean(changes[features.labels == label], len(kept)),
            float(changes[features.labels == label].mean() - changes[features.labels != label].mean()),
            float(p),
        )
        for label, p in zip(kept, adjusted, strict=True)
    ]


def _welch_p(logs: Array, inside: NDArray[np.bool_]) -> float:
    own, rest = logs[inside], logs[~inside]
    if own.var() + rest.var() == 0:
        return float(own[0] == rest[0])
    return float(stats.ttest_ind(own, rest, equal_var=False).pvalue)


def _mean(values: Array, classes: int) -> Estimate:
    n, value = len(values), float(values.mean())
    half = float(stats.t.isf(_ERROR_RATE / 2 / classes, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    method = f"t 95 % over all {classes} classes (Bonferroni)"
    return Estimate(value, max(0.0, value - half), value + half, n, "ratio", method)
