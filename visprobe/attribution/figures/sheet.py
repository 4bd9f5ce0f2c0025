"""Sheets, the data of a figure of attribution maps: pictures, and the map of each under every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from visprobe.attribution.map import Map
from visprobe.errors import DataError, UsageError
from visprobe.results.result import Estimate, Row

MOST_CHECKPOINTS = 8
_UNITS = {"gradient-norm": "{} / activation", "rollout": "share of attention", "gradient-attention": "relevance"}
_MEANINGS = {
    "gradcam": "the patch's features, weighed as the score weighs them on average over patches, raise the score",
    "gradient-norm": "the score reacts to the patch's features, for or against",
    "gradient-times-input": "to first order the score would fall without the patch's features",
    "integrated-gradients": "the patch raises the score above that of the baseline image",
    "occlusion": "the score falls where the patch is replaced by the baseline image",
    "rollout": "attention flows from the patch, whatever the score",
    "gradient-attention": "attention to the patch raises the score",
}


@dataclass(frozen=True)
class Sheet:
    """Maps of one method at one site.

    Attributes:
        pictures: RGB images as the tower saw them, one per image: resized and cropped as by its processor. A map is
            stretched over the whole picture, so over any other crop it would point to the wrong place.
        titles: Name of each image, or the question about it.
        maps: One map per image by the name of each checkpoint, the base first.
        unit: Unit of the score: "nats", "cosine".
        first: Index of the first image within all that were asked for, from 0.
        total: Number of images that were asked for; those of this sheet if 0.
    """

    pictures: Sequence[Image.Image]
    titles: Sequence[str]
    maps: Mapping[str, Sequence[Map]]
    unit: str
    first: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        counts = {len(self.pictures), len(self.titles), *(len(maps) for maps in self.maps.values())}
        if len(counts) > 1 or not self.pictures or not self.maps:
            raise UsageError(
                f"{len(self.pictures)} pictures, {len(self.titles)} titles and maps of "
                f"{[len(maps) for maps in self.maps.values()]} images do not make a figure",
                hint="Give one title and, for at least one checkpoint, one map per picture.",
            )
        kinds = {(one.method, one.site) for maps in self.maps.values() for one in maps}
        if len(kinds) > 1:
            raise UsageError(f"maps of {len(kinds)} methods or sites in one figure", hint="Draw a figure for each.")
        if not all(math.isfinite(float(one.values.sum())) for maps in self.maps.values() for one in maps):
            raise DataError("an attribution map has values that are not finite", hint="Compute it in float32.")

    @property
    def method(self) -> str:
        """Method of all maps."""
        return self._any.method

    @property
    def site(self) -> str:
        """Site of all maps."""
        return self._any.site

    @property
    def _any(self) -> Map:
        return next(iter(self.maps.values()))[0]

    @property
    def map_unit(self) -> str:
        """Unit of the maps' values, which for some methods differs from that of the score."""
        return _UNITS.get(self.method, "{}").format(self.unit)

    @property
    def meaning(self) -> str:
        """Meaning of a positive value of a map, in words."""
        return _MEANINGS.get(self.method, "the patch speaks for the score")

    @property
    def shown(self) -> dict[str, Sequence[Map]]:
        """Maps of the first eight checkpoints, for which a figure has room."""
        return dict(list(self.maps.items())[:MOST_CHECKPOINTS])

    def part(self, start: int, stop: int) -> Sheet:
        """Return images `start` to `stop` (exclusive) as a sheet that keeps their position in the whole."""
        maps = {name: maps[start:stop] for name, maps in self.maps.items()}
        total = self.total or len(self.pictures)
        pictures, titles = self.pictures[start:stop], self.titles[start:stop]
        return replace(self, pictures=pictures, titles=titles, maps=maps, first=self.first + start, total=total)


def what_is_shown(sheet: Sheet) -> str:
    """Return sentences for a caption: how many images and checkpoints of `sheet` a figure shows."""
    count, total = len(sheet.pictures), sheet.total or len(sheet.pictures)
    span = f"{sheet.first + 1} to {sheet.first + count}" if count > 1 else f"{sheet.first + 1}"
    images = f"n = {count} image{'s' * (count > 1)}" + (f" ({span} of {total})" if total > count else "")
    left_out = len(sheet.maps) - len(sheet.shown)
    limit = f" The first {MOST_CHECKPOINTS} of {len(sheet.maps)} checkpoints are shown." if left_out else ""
    return f"{images}; single maps, no interval.{limit}"


def sheet_rows(sheet: Sheet) -> Iterator[Row]:
    """Yield score and patch values of every map of `sheet`, for its CSV file."""
    for name, maps in sheet.shown.items():
        for title, one in zip(sheet.titles, maps, strict=True):
            site = f"{one.method}@{one.site}"
            yield Row(name, site, f"{title}: score", _exact(one.score, sheet.unit))
            for row, line in enumerate(one.values.tolist()):
                for column, value in enumerate(line):
                    measure = f"{title}: patch in row {row}, column {column}"
                    yield Row(name, site, measure, _exact(value, sheet.map_unit))


def _exact(value: float, unit: str) -> Estimate:
    return Estimate(value, value, value, 1, unit, "exact")
