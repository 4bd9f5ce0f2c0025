"""Measures of single maps: one number per image, under checkpoints and controls."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from visprobe.attribution.attributions import CENTRE, Attributions
from visprobe.attribution.evidence.controls import centre_map
from visprobe.attribution.evidence.focus import (
    MEASURES,
    Floats,
    Measure,
    mass_inside,
    mass_of,
    pointing,
    rank_correlation,
)
from visprobe.attribution.map import Map

RANKS = "rank_correlation"
SELECTIVITY = "selectivity"
SPECIFICITY = "specificity"
OF_OTHERS = (SELECTIVITY, SPECIFICITY)
Place = tuple[str, str]
"""Where a number belongs: "method@site" and measure."""


def measured(attributions: Attributions, name: str) -> Iterator[tuple[Place, Floats]]:
    """Compute every measure of the maps of a checkpoint or control.

    Args:
        attributions: All maps.
        name: Name of the checkpoint or control.

    Yields:
        ("method@site", measure) and one number per image, float64; NaN where the measure is not defined or the image
        has no region. For all but the base also the rank correlation with the base's maps. Selectivity if an image has
        several questions, else specificity.
    """
    base = attributions.names[0]
    for key, own in attributions.maps[base].items():
        if (maps := _maps(attributions, name, key)) is None:
            continue
        site, regions = "@".join(key), _regions(attributions, own)
        for measure, (function, needs_region, _, _) in _asked(regions):
            if measure == "pointing":
                function = _pointing_in_part
            pairs = zip(maps, regions, strict=True)
            if needs_region:
                yield (site, measure), _numbers([None if r is None else function(one, r) for one, r in pairs])
            else:
                yield (site, measure), _numbers([function(one) for one in maps])
        if not all(np.isnan(selective := _numbers(_selectivities(maps, regions, attributions.images)))):
            yield (site, SELECTIVITY), selective
        elif not all(np.isnan(specific := _numbers(_specificities(maps, regions, attributions.images)))):
            yield (site, SPECIFICITY), specific
        if name != base:
            pairs_with_base = zip(maps, map(_values, own), strict=True)
            yield (site, RANKS), _numbers([rank_correlation(*pair) for pair in pairs_with_base])


def uniform(attributions: Attributions) -> Iterator[tuple[Place, Floats]]:
    """Compute every measure of uniform maps, in the form of `measured`."""
    for key, own in attributions.maps[attributions.names[0]].items():
        regions = _regions(attributions, own)
        for measure, (_, needs_region, _, value) in _asked(regions):
            pairs = zip(own, regions, strict=True)
            numbers = [None if needs_region and r is None else value(one.grid, r) for one, r in pairs]
            yield ("@".join(key), measure), _numbers(numbers)


def needs_region(measure: str) -> bool:
    """Return whether a measure is of a map and a region."""
    return measure in OF_OTHERS or (measure in MEASURES and MEASURES[measure].needs_region)


def unit(measure: str) -> str:
    """Return the unit of a measure."""
    return {RANKS: "correlation", **dict.fromkeys(OF_OTHERS, "share of mass")}.get(measure) or MEASURES[measure].unit


def lowest(measure: str) -> float:
    """Return the smallest possible value of a measure; the largest is 1."""
    return -1.0 if measure in (RANKS, *OF_OTHERS) else 0.0


def _asked(regions: Sequence[Floats | None]) -> list[tuple[str, Measure]]:
    held = any(region is not None for region in regions)
    return [(name, measure) for name, measure in MEASURES.items() if held or not measure.needs_region]


def _maps(attributions: Attributions, name: str, key: tuple[str, str]) -> list[Floats] | None:
    """Return the values of the maps of every image, or None if a control has none."""
    if name == CENTRE:
        return [np.asarray(centre_map(one.grid), np.float64) for one in attributions.maps[attributions.names[0]][key]]
    found = attributions.maps[name].get(key)
    return None if found is None else [_values(one) for one in found]


def _selectivities(
    maps: Sequence[Floats], regions: Sequence[Floats | None], images: Sequence[str]
) -> Iterator[float | None]:
    """Yield each map's mass in its region minus the mean mass there of maps for other questions about the image."""
    # Exactly 0 for a map that ignores the question. Mass in the region alone is no proof: if the answer lies on
    # something bright, a random model has much of its mass there as well.
    asked: dict[str, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        asked[image].append(number)
    for number, region in enumerate(regions):
        elsewhere = [k for k in asked[images[number]] if not _same(regions[k], region)]
        if region is None or not elsewhere:
            yield None
            continue
        own, *others = (mass_inside(maps[k], region) for k in (number, *elsewhere))
        known = [own - other for other in others if own is not None and other is not None]
        yield float(np.mean(known)) if known else None


def _specificities(
    maps: Sequence[Floats], regions: Sequence[Floats | None], images: Sequence[str]
) -> list[float | None]:
    """Return each map's mass in its region minus the mean mass there of maps of other images."""
    # Its expectation is 0 for maps that ignore the image. If all regions lie low in the picture, a model that always
    # looks low has mass in them, and no other control takes that away. Source: shuffled fixations as the control for a
    # bias of place, Tatler et al. 2005, Zhang et al. 2008 (SUN).
    found: list[float | None] = [None] * len(maps)
    masses = [(number, mass) for number, one in enumerate(maps) if (mass := mass_of(one)) is not None]
    for grid in {mass.shape for _, mass in masses}:
        alike = [(number, mass) for number, mass in masses if mass.shape == grid]
        total = np.sum([mass for _, mass in alike], axis=0)
        own: dict[str, list[Floats]] = defaultdict(list)
        for number, mass in alike:
            own[images[number]].append(mass)
        for number, mass in alike:
            region, same = regions[number], own[images[number]]
            if region is not None and len(same) < len(alike):
                # Mean map of all other images, without a loop over pairs: the total minus this image's own maps.
                others = (total - np.sum(same, axis=0)) / (len(alike) - len(same))
                found[number] = float(((mass - others) * region).sum())
    return found


def _same(one: Floats | None, other: Floats | None) -> bool:
    return one is None or other is None or np.array_equal(one, other)


def _pointing_in_part(values: Floats, region: Floats) -> float | None:
    """Return the share of the largest values that lie in the region; ties are common (occlusion, the centre map)."""
    if values.max() <= 0:
        return None
    largest = np.argwhere(values == values.max())
    pointed = []
    for row, column in largest:
        alone = np.zeros_like(values)
        alone[row, column] = 1
        pointed.append(bool(pointing(alone, region)))
    return float(np.mean(pointed))


def _values(one: Map) -> Floats:
    values: Floats = one.values.double().numpy()
    return values


def _regions(attributions: Attributions, maps: Sequence[Map]) -> list[Floats | None]:
    return [attributions.region(image, one.grid) for image, one in enumerate(maps)]


def _numbers(values: Iterable[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], np.float64)
