"""Share of weights that post-training left unchanged, beside that of a dense update of the same size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.weights.weights import shared_weights
from visprobe.metrics.intervals.proportions import wilson
from visprobe.metrics.weights.difference import coarser, total, weight_change
from visprobe.metrics.weights.update_sparsity import RELATIVE_TOLERANCES, Unchanged, total_unchanged, unchanged
from visprobe.results.presentation import Presentation
from visprobe.results.result import BaselineKind, Estimate, Result, Row, role_of

QUESTION = "How many weights did post-training leave as they were, against an update of that size in every weight?"
ALIKE = 1.5  # sizes of two updates that differ by more than this factor make a warning

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Counts:
    stored: Unchanged
    bfloat16: Unchanged


def update_sparsity(
    base_name: str,
    base: Weights,
    others: Mapping[str, Weights],
    group_of: Callable[[str], str],
    seed: int = 0,
) -> Result:
    """Measure the share of unchanged weights of tower and projector, beside that of a dense update.

    Args:
        base_name: Name of the base checkpoint.
        base: Weights of the base by canonical name, as stored.
        others: Weights of each descendant, by its name.
        group_of: Returns the weight group of a canonical name.
        seed: Seed of the dense updates.

    Returns:
        Exact rows: "share_equal" at the coarsest dtype of all checkpoints, "share_equal_bfloat16",
        "share_within_<tolerance>" (|change| up to the tolerance times |weight|), all in [0, 1], and
        "relative_change". Baseline rows "<checkpoint> (dense)": the same shares if every weight had moved by a Gaussian
        of the size that its tensor's update has; simulated, with Wilson intervals over weights.

    Raises:
        CheckpointError: If a descendant shares no weight with the base, or one differs in shape or is not finite.

    Source:
        Mukherjee et al. 2025 (2505.11711), section 3.
    """
    dtype = _coarsest([base, *others.values()])
    rows: list[Row] = []
    for name, weights in others.items():
        shared = shared_weights(base_name, base, name, weights, group_of)
        parts: dict[str, list[str]] = {}
        for key in shared:
            parts.setdefault("projector" if group_of(key) == "projector" else "tower", []).append(key)
        for part, keys in sorted(parts.items(), reverse=True):
            changes = total([weight_change(base[key], weights[key]) for key in keys])
            size = changes.relative_change
            if math.isfinite(size):
                rows.append(
                    Row(name, part, "relative_change", Estimate.exact(size, changes.weights, "ratio"), base_name)
                )
            rows += _rows(name, part, _count(base, weights, keys, dtype), base_name)
            dense = _dense(base, weights, keys, seed)
            rows += _rows(f"{name} (dense)", part, _count(base, dense, keys, dtype), base_name, "control")
    settings = {"base": base_name, "compared_at": str(dtype).split(".")[1], "tolerances": list(RELATIVE_TOLERANCES)}
    return Result("sparsity", QUESTION, tuple(rows), settings | {"seed": seed}, tuple(_warnings(rows, list(others))))


def _coarsest(sides: Sequence[Weights]) -> torch.dtype:
    found = torch.float64
    for weights in sides:
        for tensor in weights.values():
            found = coarser(found, tensor.dtype) if tensor.is_floating_point() else found
    return found


def _count(base: Weights, other: Weights, keys: Sequence[str], dtype: torch.dtype) -> _Counts:
    stored = [unchanged(base[key], other[key], dtype=dtype) for key in keys]
    rounded = [unchanged(base[key], other[key], (), dtype=torch.bfloat16) for key in keys]
    return _Counts(total_unchanged(stored), total_unchanged(rounded))


def _dense(base: Weights, other: Weights, keys: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Return the base with Gaussian noise on every weight, in each tensor of the size of its update."""
    generator = torch.Generator().manual_seed(seed)
    dense = {}
    for key in keys:
        change = weight_change(base[key], other[key])
        size = math.sqrt(change.squared_change / change.weights)
        dense[key] = base[key].double() + size * torch.randn(base[key].shape, generator=generator, dtype=torch.float64)
    return dense


def _rows(name: str, part: str, counts: _Counts, base: str, control: BaselineKind | None = None) -> Iterator[Row]:
    stored, n = counts.stored, counts.stored.weights
    found = {"share_equal": stored.equal, "share_equal_bfloat16": counts.bfloat16.equal}
    within = zip(RELATIVE_TOLERANCES, stored.within, strict=True)
    found |= {f"share_within_{tolerance:.0e}": count for tolerance, count in within}
    for measure, count in found.items():
        estimate = Estimate.exact(count / n, n, "fraction")
        if control:
            estimate = Estimate(count / n, *wilson(count, n), n, "fraction", "simulated, Wilson 95 %")
        yield Row(name, part, measure, estimate, base, role_of(control), control)


def _warnings(rows: Sequence[Row], names: Sequence[str]) -> Iterator[str]:
    yield (
        "a weight whose update is below half the spacing of its dtype (bfloat16: 2⁻⁹ to 2⁻⁸ of the weight) is stored "
        "unchanged: read each share against that of the dense update of the same size"
    )
    size = {
        row.checkpoint: row.estimate.value for row in rows if (row.site, row.measure) == ("tower", "relative_change")
    }
    for one, two in combinations([name for name in names if size.get(name)], 2):
        low, high = sorted((size[one], size[two]))
        if high > ALIKE * low:
            yield (
                f"the updates of {one} and {two} differ in size ({size[one]:.2g} and {size[two]:.2g} of the norm): "
                "the smaller looks sparser; match learning rate times steps before saying that a method is sparser"
            )


def _run(inputs: Inputs) -> Result:
    base, *others = inputs.encoders
    weights = {other.name: other.weights() for other in others}
    return update_sparsity(base.name, base.weights(), weights, base.weight_group, inputs.seed)


SPARSITY = Analysis(
    name="sparsity",
    question=QUESTION,
    needs=lambda encoder: [],
    run=_run,
    baselines="none",
    presentation=Presentation(
        titles={
            "share_equal_bfloat16": "Share of weights equal to the base after rounding both to bfloat16",
            "share_within_1e-05": "Share of weights changed by at most 10⁻⁵ of themselves",
            "share_within_1e-04": "Share of weights changed by at most 10⁻⁴ of themselves",
            "share_within_1e-03": "Share of weights changed by at most 10⁻³ of themselves",
        },
        heading="Part",
        place=125,
        about_weights=True,
    ),
)
