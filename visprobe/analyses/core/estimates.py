"""From intervals of the metrics to estimates of a result, and from what metrics refuse to one clear error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from numpy.typing import ArrayLike

from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.jackknife import Interval, Replicated, jackknife, replicate_mean
from visprobe.results.result import Estimate

JACKKNIFE = "delete-one jackknife 95 %"


def cka_estimate(replicated: Replicated, limit: float = 1.0) -> Estimate:
    """A CKA, or with `limit` 2 a difference of two, with its jackknife interval."""
    return estimate(jackknife(replicated, limit=limit), "CKA")


def mean_estimate(values: ArrayLike, unit: str) -> Estimate:
    """Mean of one number per image, with the t interval that the jackknife of a mean gives.

    Args:
        values: Any real dtype, shape (n,), n >= 2.
        unit: What is measured.
    """
    limit = 1.0 if unit == "fraction" else float("inf")
    return estimate(jackknife(replicate_mean(values), limit=limit), unit)


def estimate(interval: Interval, unit: str, method: str = JACKKNIFE) -> Estimate:
    """`interval` as an estimate."""
    return Estimate(interval.value, interval.low, interval.high, interval.n, unit, method)


def refuse_fewer(features: FeatureSet, least: int, why: str) -> None:
    """Refuse a set of too few images.

    Raises:
        DataError: If there are fewer than `least` images.
    """
    if len(features.item_ids) < least:
        raise DataError(
            f"{features.images} has {len(features.item_ids)} usable images; {why} needs at least {least}",
            hint="Give more images.",
        )


@contextmanager
def naming(features: FeatureSet, site: str, what: str) -> Iterator[None]:
    """Name checkpoint, site and images in what a metric refuses.

    Raises:
        DataError: In place of the metric's ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise DataError(
            f"{what} is not defined for {features.encoder} at {site} on {features.images}: {error}",
            hint="Give more and more varied images; if they vary, the encoder of this checkpoint has collapsed.",
        ) from error
