"""Drift of single attention heads, tested against that of rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import Key, difference_rows, kinds_of, value_rows
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.refusals import naming, refuse_fewer
from visprobe.analyses.drift.noise_floor import distance, noise_floors, p_larger
from visprobe.errors import DataError, UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.estimate import CKA
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.metrics.intervals.multiplicity import holm
from visprobe.metrics.similarity.cka import replicate_cka, represent
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Row

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

QUESTION = "Which attention heads moved, and does any of them move more than rounding can?"

# Another rounding, with errors of the same size, moves the most moved head up to 1.5 times as far
# (analyses/heads/card.md); a head has moved if it moved further than twice the baseline's most moved head.
_BEYOND_ROUNDING = 2.0
_ERROR_RATE = 0.05
_ALL = "all heads"

_Heads = list[Replicated]  # the heads of one block
_Blocks = dict[str, _Heads]


def head_drift(base: FeatureSet, others: Sequence[FeatureSet], baselines: Sequence[FeatureSet], heads: int) -> Result:
    """Compute the debiased linear CKA with the base of every attention head's output.

    Args:
        base: Outputs of the heads side by side ("heads_01" …), float of shape (n, heads * width), under the base.
        others: Outputs for the same images under its descendants.
        baselines: Outputs for the same images under "untrained" and "<base> (bfloat16)".
        heads: Number of heads per block.

    Returns:
        Rows "least_head_cka" (the least similar head of a block, its interval valid for all heads of the block
        together) and "median_head_cka" per block, in [-1, 1]; "heads_moved", the share of heads that moved further
        than rounding moves any head; paired differences of the medians. The CKA of every head is in
        settings["maps"], blocks by heads.

    Raises:
        DataError: If there are fewer than five images, they are not the same for all, the width is no multiple of
            `heads`, or a head's output is not finite or does not vary.

    Source:
        Debiased CKA: Nguyen et al. 2021 (2010.15327); Holm 1979 over all heads of a checkpoint.
    """
    base, *rest = align([base, *others, *baselines])
    refuse_fewer(base, 5, "CKA of heads with an interval")
    found = _replicates(base, rest, heads)
    names = [features.encoder for features in others]
    numbers: dict[Key, Estimate] = {}
    medians: dict[Key, Replicated] = {}
    for name, blocks in found.items():
        for site, block in blocks.items():
            numbers[name, site, "least_head_cka"] = _least(block)
            medians[name, site, "median_head_cka"] = median = _median(block)
            numbers[name, site, "median_head_cka"] = median.estimate(CKA)
    rounded = _furthest([found[name] for name in noise_floors(kinds_of(baselines)) if name in found])
    moved = {name: _moved(found[name], rounded) for name in names} if rounded else {}
    rows = (
        *value_rows(numbers, kinds_of(baselines), base.encoder),
        *(_share_moved(name, flags, base) for name, flags in moved.items()),
        *difference_rows(medians, names, lambda pair: (pair.after - pair.before).estimate(CKA.of_differences)),
    )
    return Result("heads", QUESTION, rows, _settings(base, found, moved, heads), _warnings(moved))


def _replicates(base: FeatureSet, rest: Sequence[FeatureSet], heads: int) -> dict[str, _Blocks]:
    """Compute CKA of every head with the base; the base's heads are prepared once per block."""
    found: dict[str, _Blocks] = {features.encoder: {} for features in rest}
    for site in base.sites:
        with naming(base, site, "CKA of a head"):
            origin = [represent(head) for head in _split(base, site, heads)]
        for features in rest:
            with naming(features, site, "CKA of a head"):
                pairs = zip(origin, _split(features, site, heads), strict=True)
                found[features.encoder][site] = [replicate_cka(x, represent(head)) for x, head in pairs]
    return found


def _split(features: FeatureSet, site: str, heads: int) -> list[Array]:
    array = np.asarray(features.sites[site], dtype=np.float64)
    if array.ndim != 2 or array.shape[1] % heads:
        raise DataError(
            f"{features.encoder} at {site}: features of shape {array.shape} are not those of {heads} heads",
            hint="Extract the features of all checkpoints again, in one run.",
        )
    return np.split(array, heads, axis=1)


def _least(block: _Heads) -> Estimate:
    level = 1 - _ERROR_RATE / len(block)  # the lowest of several: its interval must hold for each of them
    least = min(block, key=lambda head: head.value).estimate(CKA, level)
    return replace(least, method=f"delete-one jackknife 95 % over all {len(block)} heads (Bonferroni)")


def _median(block: _Heads) -> Replicated:
    without = np.median([head.without for head in block], axis=0)
    return Replicated(float(np.median([head.value for head in block])), without)


def _furthest(baselines: Sequence[_Blocks]) -> _Blocks | None:
    """Return the baseline of those that number formats make whose most moved head moved most."""
    return min(
        baselines, key=lambda blocks: min(head.value for block in blocks.values() for head in block), default=None
    )


def _moved(blocks: _Blocks, rounded: _Blocks) -> dict[str, list[bool]]:
    """Flag the heads further from the base than twice the head that rounding moved most; one error rate for all."""
    most = min((head for block in rounded.values() for head in block), key=lambda head: head.value)
    flat = [head for block in blocks.values() for head in block]
    p = holm([p_larger(distance(head), [(_BEYOND_ROUNDING, distance(most))]) for head in flat])
    flags = iter(p <= _ERROR_RATE)
    return {site: [bool(next(flags)) for _ in block] for site, block in blocks.items()}


def _share_moved(name: str, flags: Mapping[str, Sequence[bool]], base: FeatureSet) -> Row:
    every = [flag for block in flags.values() for flag in block]
    share = sum(every) / len(every)
    method = f"Holm over {len(every)} heads at {_ERROR_RATE:.0%}: at least so many moved"
    return Row(name, _ALL, "heads_moved", Estimate(share, share, 1.0, len(base.item_ids), "fraction", method))


def _settings(base: FeatureSet, found: Mapping[str, _Blocks], moved: Mapping[str, Any], heads: int) -> dict[str, Any]:
    maps = {
        name: [[round(head.value, 9) for head in block] for block in blocks.values()] for name, blocks in found.items()
    }
    return {
        "base": base.encoder,
        "images": base.images,
        "n": len(base.item_ids),
        "sites": list(base.sites),
        "heads": heads,
        "rule": f"moved: further than {_BEYOND_ROUNDING:g} times the head that the number format moves most",
        "least_similar_head": {
            name: {site: int(np.argmin(row)) for site, row in zip(base.sites, maps[name], strict=True)}
            for name in moved or found
        },
        "maps": maps,
        "moved": {name: list(flags.values()) for name, flags in moved.items()},
    }


def _warnings(moved: Mapping[str, object]) -> tuple[str, ...]:
    return () if moved else ("the base was not rounded to bfloat16: which heads moved cannot be said",)


def _needs(encoder: VisionEncoder) -> tuple[str, ...]:
    if not encoder.head_sites:
        raise UsageError(
            f"the attention heads of {encoder.name} ({encoder.provenance.family}) cannot be read one by one",
            hint="Leave heads out of --analyses for this family of towers.",
        )
    return encoder.head_sites


def _run(inputs: Inputs) -> Result:
    return head_drift(inputs.base, inputs.others, inputs.baselines, inputs.encoders[0].heads)


HEADS = Analysis(
    name="heads",
    question=QUESTION,
    needs=_needs,
    run=_run,
    presentation=Presentation(
        titles={
            "least_head_cka": "Debiased linear CKA of the least similar head of each block",
            "median_head_cka": "Debiased linear CKA of the median head of each block",
            "heads_moved": "Share of heads that moved further than rounding moves any head",
        },
        figures=(FigureSpec("heads", "visprobe.analyses.drift.heads_figure"),),
        place=140,
        drawn_settings=("maps", "moved"),
    ),
)
