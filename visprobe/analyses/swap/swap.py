"""Exchange of parts between two checkpoints: which part of the encoder carries their difference?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.accuracy.imagenet import right_at_first
from visprobe.analyses.core.differences import kinds_of, value_rows
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.refusals import naming
from visprobe.analyses.drift.noise_floor import MARGIN, distance, p_larger
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import CKA
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.intervals.proportions import paired_difference, proportion
from visprobe.metrics.similarity.cka import Representation, replicate_cka, represent
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import BaselineKind, Result, Row

QUESTION = "Which part of the encoder carries the difference between two checkpoints?"
WHOLE = "whole encoder"
LEVEL = 0.05

# A part below this share of the distance does not "carry" it, however surely it is measured.
LEAST = 0.05
PRESENTATIONS = {
    "swap": Presentation(
        titles={
            "cka_consumed": "CKA to the other checkpoint, where the language model reads",
            "cka_projected": "CKA to the other checkpoint, after the projector",
            "top1_consumed": "Top-1 accuracy, where the language model reads",
            "top1_projected": "Top-1 accuracy, after the projector",
        },
        heading="Part",
        figures=(FigureSpec("swap", "visprobe.analyses.swap.swap_figure"),),
        place=30,
    )
}

Direction = Literal["sufficient", "necessary", "cumulative"]
DIRECTIONS: tuple[Direction, ...] = ("sufficient", "necessary", "cumulative")
TESTED = DIRECTIONS[:2]  # the cumulative curve is drawn, not tested


@dataclass(frozen=True)
class Hybrid:
    """Features of an encoder assembled from two checkpoints.

    Attributes:
        direction: "sufficient": base with one part of other; "necessary": other with one part of base; "cumulative":
            base with this part and all before it of other.
        part: Weight group, or "blocks 1-4".
        features: Features under it, of the images of the two checkpoints.
        support: Features of the images that prototypes are computed from, or None for leave-one-out.
    """

    direction: Direction
    part: str
    features: FeatureSet
    support: FeatureSet | None = None


@dataclass(frozen=True)
class Pair:
    """Features of the two checkpoints, and of the baselines of their distance.

    Attributes:
        base: Features under the first checkpoint.
        other: Features under the second checkpoint.
        baselines: Features under the first in other number formats: "<base> (bfloat16)", "<base> (float32)".
        support: Features of other images under base and other, or None.
    """

    base: FeatureSet
    other: FeatureSet
    baselines: Sequence[FeatureSet]
    support: tuple[FeatureSet, FeatureSet] | None = None


@dataclass(frozen=True)
class _Measured:
    # By site: images put into the right class, and CKA to other with its replicates.
    right: Mapping[str, NDArray[np.bool_]]
    cka: Mapping[str, Replicated]


def layer_swap(pair: Pair, hybrids: Sequence[Hybrid], warnings: Sequence[str] = ()) -> Result:
    """Measure accuracy and CKA to `other` of every hybrid, against the checkpoint it differs from in one part.

    Args:
        pair: Features of the two checkpoints at the sites of interest.
        hybrids: Features of the encoders assembled from them, over the same images.
        warnings: Caveats to put into the result.

    Returns:
        Rows by part (`Row.site`) and direction (`Row.checkpoint`, as `column`): "cka_consumed" and "cka_projected", the
        CKA to `other` in [-1, 1], and "top1_consumed" and "top1_projected" where the images have classes; paired
        differences to `base`, or to `other` where a part of it was taken out. settings["tests"] holds p-values,
        adjusted by Holm over the parts of a direction: McNemar's for top-1; for CKA one-sided, that the part moves it
        by more than `MARGIN` times what the number format moves base and `LEAST` of the distance between base and
        other together.

    Raises:
        DataError: If the images are not the same for all, are fewer than five, or CKA is not defined on them.

    Source:
        Exchange of layers between two networks as a causal test: Zhang, Bengio & Singer 2019 (1902.01996); here both
        ways, against one part alone and against all parts but one.
    """
    base, other, *rest = align([pair.base, pair.other, *pair.baselines, *(h.features for h in hybrids)])
    baselines, rest = rest[: len(pair.baselines)], rest[len(pair.baselines) :]
    right = _right(pair, [base, other, *rest], hybrids) if base.labels is not None else {}
    key = {site: "consumed" if site == other.consumed else site for site in other.sites}.__getitem__
    origin = {site: _represent(other, site) for site in other.sites}

    def measured(features: FeatureSet) -> _Measured:
        cka = {key(site): replicate_cka(origin[site], _represent(features, site)) for site in features.sites}
        return _Measured({key(site): array for site, array in right.get(features.encoder, {}).items()}, cka)

    own = {"base": measured(base), "other": measured(other)}
    found = {(h.direction, h.part): measured(f) for h, f in zip(hybrids, rest, strict=True)}
    origin = {site: _represent(base, site) for site in base.sites}
    noise = {
        one.encoder: {key(s): replicate_cka(origin[s], _represent(one, s)) for s in base.sites} for one in baselines
    }
    rounding = {
        site: min((ckas[site] for ckas in noise.values()), key=lambda cka: cka.value) for site in own["base"].cka
    }
    named = _Names(base.encoder, other.encoder)
    rows = [*_whole(named, own), *_noise(named, noise, kinds_of(baselines)), *_parts(named, own, found)]
    tests = [*_tests_of_all(own, rounding), *_tests(own, found, rounding)]
    settings: dict[str, Any] = {
        "base": base.encoder,
        "other": other.encoder,
        "images": base.images,
        "n": len(base.item_ids),
        "sites": list(base.sites),
        "consumed": base.consumed,
        "parts": list(dict.fromkeys(h.part for h in hybrids)),
        "level": LEVEL,
        "least": LEAST,
        "tests": tests,
    }
    return Result("swap", QUESTION, tuple(rows), settings, tuple(warnings))


@dataclass(frozen=True)
class _Names:
    base: str
    other: str

    def column(self, direction: Direction) -> str:
        return column(direction, self.base, self.other)

    def reference(self, direction: Direction) -> str:
        return self.other if direction == "necessary" else self.base


def column(direction: Direction, base: str, other: str) -> str:
    """Return `Row.checkpoint` of the hybrids of a direction."""
    return {
        "sufficient": f"{base}[part <- {other}]",
        "necessary": f"{other}[part <- {base}]",
        "cumulative": f"{base}[up to part <- {other}]",
    }[direction]


def _represent(features: FeatureSet, site: str) -> Representation:
    with naming(features, site, "CKA"):
        return represent(features.sites[site])


def _right(
    pair: Pair, sets: Sequence[FeatureSet], hybrids: Sequence[Hybrid]
) -> dict[str, dict[str, NDArray[np.bool_]]]:
    support = None
    if pair.support is not None:
        support = [*pair.support, *(h.support for h in hybrids if h.support is not None)]
    return right_at_first(sets, support)


def _values(name: str, part: str, measured: _Measured, other: str) -> Iterator[Row]:
    for site, replicated in measured.cka.items():
        yield Row(name, part, f"cka_{site}", replicated.estimate(CKA), other)
    for site, right in measured.right.items():
        yield Row(name, part, f"top1_{site}", proportion(right))


def _whole(named: _Names, own: Mapping[str, _Measured]) -> Iterator[Row]:
    base, other = own["base"], own["other"]
    yield from _values(named.base, WHOLE, base, named.other)
    yield from _values(named.other, WHOLE, _Measured(other.right, {}), named.other)
    for site in other.right:
        difference, _ = paired_difference(other.right[site], base.right[site])
        yield Row(named.other, WHOLE, f"top1_{site}", difference, named.base, "difference")


def _noise(
    named: _Names, noise: Mapping[str, Mapping[str, Replicated]], kinds: Mapping[str, BaselineKind]
) -> Iterator[Row]:
    numbers = {
        (name, WHOLE, f"cka_{site}"): one.estimate(CKA) for name, ckas in noise.items() for site, one in ckas.items()
    }
    return value_rows(numbers, kinds, named.base)


def _parts(
    named: _Names, own: Mapping[str, _Measured], found: Mapping[tuple[Direction, str], _Measured]
) -> Iterator[Row]:
    for (direction, part), measured in found.items():
        name, reference = named.column(direction), named.reference(direction)
        against = own["other" if direction == "necessary" else "base"]
        yield from _values(name, part, measured, named.other)
        for site, replicated in measured.cka.items():
            moved = (replicated - against.cka[site]).estimate(CKA.of_differences)
            yield Row(name, part, f"cka_{site}", moved, reference, "difference")
        for site, right in measured.right.items():
            difference, _ = paired_difference(right, against.right[site])
            yield Row(name, part, f"top1_{site}", difference, reference, "difference")


def _tests_of_all(own: Mapping[str, _Measured], rounding: Mapping[str, Replicated]) -> Iterator[dict[str, Any]]:
    base, other = own["base"], own["other"]
    p = {f"cka_{site}": p_larger(distance(base.cka[site]), [(MARGIN, distance(rounding[site]))]) for site in base.cka}
    p |= {f"top1_{site}": paired_difference(other.right[site], base.right[site])[1] for site in base.right}
    for measure, value in p.items():
        yield {"direction": "all", "part": WHOLE, "measure": measure, "p": value, "p_holm": value}


def _tests(
    own: Mapping[str, _Measured],
    found: Mapping[tuple[Direction, str], _Measured],
    rounding: Mapping[str, Replicated],
) -> Iterator[dict[str, Any]]:
    base = own["base"]
    bars = {site: [(MARGIN, distance(rounding[site])), (LEAST, distance(base.cka[site]))] for site in base.cka}
    for direction in TESTED:
        parts = {part: measured for (kind, part), measured in found.items() if kind == direction}
        against = own["other" if direction == "necessary" else "base"]
        p: dict[str, list[float]] = {}
        for measured in parts.values():
            for site, cka in measured.cka.items():
                step = against.cka[site] - cka if direction == "necessary" else cka - base.cka[site]
                p.setdefault(f"cka_{site}", []).append(p_larger(step, bars[site]))
            for site, right in measured.right.items():
                p.setdefault(f"top1_{site}", []).append(paired_difference(right, against.right[site])[1])
        for measure, values in p.items():
            for part, raw, adjusted in zip(parts, values, holm(values), strict=True):
                yield {"direction": direction, "part": part, "measure": measure, "p": raw, "p_holm": float(adjusted)}
