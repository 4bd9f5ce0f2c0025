"""Errors for too few images and for features that a metric refuses, naming checkpoint, site and images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet


def refuse_fewer(features: FeatureSet, least: int, why: str, hint: str = "Give more images.") -> None:
    """Refuse a set of too few images.

    Raises:
        DataError: If there are fewer than `least` images.
    """
    if len(features.item_ids) < least:
        raise DataError(
            f"{features.images} has {len(features.item_ids)} usable images; {why} needs at least {least}", hint=hint
        )


@contextmanager
def naming(features: FeatureSet, site: str, what: str, against: str | None = None) -> Iterator[None]:
    """Turn a metric's ValueError into one that names checkpoint, site, images and `against`, the other checkpoint.

    Raises:
        DataError: In place of the metric's ValueError.
    """
    try:
        yield
    except ValueError as error:
        names = features.encoder if against is None else f"{features.encoder} and {against}"
        raise DataError(
            f"{what} is not defined for {names} at {site} on {features.images}: {error}",
            hint="Give more and more varied images; if they vary, the encoder of this checkpoint has collapsed.",
        ) from error
