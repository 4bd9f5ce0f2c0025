"""Weight drift: which weights of the encoder post-training changed, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.weights.sentences import RULES
from visprobe.encoders.checkpoint.hashing import all_roundings
from visprobe.encoders.structure.tensor_class import CLASSES, by_class, tensor_class
from visprobe.errors import CheckpointError
from visprobe.metrics.weights.difference import WeightChange, coarser, total, weight_change
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Row

QUESTION = "Which weights of the encoder did post-training change, and by how much?"

Weights = Mapping[str, Tensor]

_TOWER_CLASSES = tuple(name for name in CLASSES if name not in ("clip_range", "head", "projector"))


def weight_drift(
    base_name: str,
    base: Weights,
    others: Mapping[str, Weights],
    group_of: Callable[[str], str],
    off_path: Collection[str] = (),
    class_of: Callable[[str, str], str] = tensor_class,
) -> Result:
    """Measure relative change and share of equal weights, by depth, for the whole tower and by class of weight.

    Args:
        base_name: Name of the base checkpoint.
        base: Weights of the base by canonical name, as stored.
        others: Weights of each descendant, by its name.
        group_of: Returns the group of a canonical name ("embeddings", "block_01", "final_norm", "head", "projector").
        off_path: Groups that the MLLM's loss never reaches.
        class_of: Returns the class of a weight by its name and group (`Family.tensor_class`).

    Returns:
        Exact rows per group: "matrices_changed" (in [0, 1], of n weight matrices), "matrix_change" (>= 0, the median of
        ‖ΔW‖ / ‖W‖ in the Frobenius norm over the n matrices that changed; 0 if none did), "relative_change" (>= 0, the
        same ratio of all weights taken as one vector, in which gains of norms and biases can weigh most) and
        "share_equal" (in [0, 1], compared at the coarser of the two stored dtypes). Groups are those by depth, "tower",
        all of them but the projector, and classes of the tower's weights ("attention_q" …, `tensor_class`) over all
        depths; fused query, key and value are taken apart. settings["groups"] and ["classes"] tell the two apart.
        Descendants whose every tower weight equals the base's are listed in settings["identical"]; where that holds
        of the base rounded to bfloat16 or float16, settings["rounded"] has that dtype by their names.

    Raises:
        CheckpointError: If a descendant shares no weight with the base, has one of another shape, or holds NaN or
            infinity.
    """
    rows: list[Row] = []
    warnings: list[str] = []
    identical: list[str] = []
    rounded: dict[str, str] = {}
    dtypes: dict[str, list[str]] = {}
    for name, weights in others.items():
        shared = shared_weights(base_name, base, name, weights, group_of)
        changes = _changes(base, weights, shared, group_of, class_of)
        rows += [row for part, own in changes.items() for row in _rows(name, part, own, base_name)]
        tower = [key for key in shared if group_of(key) != "projector"]
        kind = all_roundings((base[key], weights[key]) for key in tower) if tower else None
        if kind:
            rounded[name] = kind
        elif kind is not None:
            identical.append(name)
        dtypes[name] = sorted({str(coarser(base[key].dtype, weights[key].dtype)).split(".")[1] for key in shared})
        warnings += _warnings(base_name, base, name, weights, group_of)
    warnings += [f"{name}: every tower weight equals {base_name}'s: not trained or not saved" for name in identical]
    warnings += [f"{name}: every tower weight equals {base_name}'s rounded to {rounded[name]}" for name in rounded]
    groups_seen = {row.site for row in rows} - set(_TOWER_CLASSES)
    if off := sorted(groups_seen & set(off_path), key=_place):
        warnings.append(f"the language model's loss never reaches {', '.join(off)}: only weight decay can change them")
    settings: dict[str, Any] = {
        "base": base_name,
        "groups": sorted(groups_seen, key=_place),
        "classes": [name for name in _TOWER_CLASSES if any(row.site == name for row in rows)],
        "identical": identical,
        "rounded": rounded,
        "compared_at": dtypes,
        "off_path": off,
    }
    return Result("weights", QUESTION, tuple(rows), settings, tuple(warnings))


def shared_weights(
    base_name: str, base: Weights, name: str, weights: Weights, group_of: Callable[[str], str]
) -> list[str]:
    """Return the names of the weights that both have, without integers and ranges of activations.

    Raises:
        CheckpointError: If there is none, one differs in shape, or one holds NaN or infinity.
    """
    shared = [key for key in base if key in weights and is_weight(key, base[key], group_of(key))]
    if not shared:
        raise CheckpointError(
            f"{name} and {base_name} have no weight of the same name",
            hint="Compare checkpoints that descend from one base, with the base first.",
        )
    for key in shared:
        if base[key].shape != weights[key].shape:
            raise CheckpointError(
                f"{key} is {tuple(weights[key].shape)} in {name} and {tuple(base[key].shape)} in {base_name}",
                hint="Compare checkpoints that descend from one base, with the base first.",
            )
        for owner, tensor in ((base_name, base[key]), (name, weights[key])):
            _check_finite(owner, key, tensor)
    return shared


def _check_finite(owner: str, key: str, tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{key} of {owner} holds NaN or infinity", hint="The training diverged; take an earlier checkpoint."
        )


def is_weight(name: str, tensor: Tensor, group: str) -> bool:
    """Return True if a stored tensor is trained: no integer positions, no clipping ranges of Gemma 4."""
    return tensor.is_floating_point() and tensor_class(name, group) != "clip_range"


class _Part(NamedTuple):
    # Of one weight, or of the part of a fused weight that has one function.
    change: WeightChange
    is_matrix: bool


def _changes(
    base: Weights,
    weights: Weights,
    shared: Sequence[str],
    group_of: Callable[[str], str],
    class_of: Callable[[str, str], str],
) -> dict[str, list[_Part]]:
    """Return changes of weights by weight group, of the whole "tower", and by class of the tower's weights."""
    groups: dict[str, list[_Part]] = {}
    classes: dict[str, list[_Part]] = {}
    for key in shared:
        group = group_of(key)
        mine, theirs = (by_class(class_of(key, group), side[key]) for side in (base, weights))
        for (name, part), (_, other) in zip(mine, theirs, strict=True):
            one = _Part(weight_change(part, other), is_matrix(part))
            groups.setdefault(group, []).append(one)
            classes.setdefault(name, []).append(one)
    by_group = {group: groups[group] for group in sorted(groups, key=_place)}
    tower = [one for group, parts in by_group.items() if group != "projector" for one in parts]
    by_name = {name: classes[name] for name in _TOWER_CLASSES if name in classes}
    return by_group | ({"tower": tower} if tower else {}) | by_name


def is_matrix(weight: Tensor) -> bool:
    """Return True if `weight` maps vectors to vectors: a matrix or convolution, not a bias, gain or single token."""
    return sum(size > 1 for size in weight.shape) > 1


def _rows(name: str, group: str, parts: Sequence[_Part], base: str) -> Iterator[Row]:
    change = total([one.change for one in parts])
    matrices = [one.change for one in parts if one.is_matrix and _is_relative(one.change)]
    moved = [one.relative_change for one in matrices if one.squared_change > 0]
    measures: list[tuple[str, float, int, str]] = []
    if matrices:
        measures.append(("matrices_changed", len(moved) / len(matrices), len(matrices), "fraction"))
        measures.append(("matrix_change", median(moved or [0.0]), len(moved or matrices), "ratio"))
    if _is_relative(change):
        measures.append(("relative_change", change.relative_change, change.weights, "ratio"))
    measures.append(("share_equal", change.share_equal, change.weights, "fraction"))
    for measure, value, n, unit in measures:
        yield Row(name, group, measure, Estimate.exact(value, n, unit), base)


def _is_relative(change: WeightChange) -> bool:
    """Return True unless the change is from all zeros, which has no relative size."""
    return change.squared_base > 0 or change.squared_change == 0


def _warnings(
    base_name: str, base: Weights, name: str, weights: Weights, group_of: Callable[[str], str]
) -> Iterator[str]:
    for owner, mine, other, theirs in ((base_name, base, name, weights), (name, weights, base_name, base)):
        groups = sorted({group_of(key) for key in mine if key not in theirs}, key=_place)
        if groups:
            yield f"{owner} has weights in {', '.join(groups)} that {other} lacks; they are not compared"


def _place(group: str) -> tuple[int, str]:
    """Return a sort key from the input to the projector, the whole tower last."""
    fixed = {"embeddings": 0, "final_norm": 2, "head": 3, "projector": 5, "tower": 6}
    return (1 if group.startswith("block_") else fixed.get(group, 4)), group


def _run(inputs: Inputs) -> Result:
    base, *others = inputs.encoders
    return weight_drift(
        base.name,
        base.weights(),
        {other.name: other.weights() for other in others},
        base.weight_group,
        off_path=base.provenance.off_path,
        class_of=base.family.tensor_class,
    )


WEIGHTS = Analysis(
    name="weights",
    question=QUESTION,
    needs=lambda encoder: [],
    run=_run,
    baselines="none",
    required=True,
    presentation=Presentation(
        titles={
            "matrices_changed": "Share of weight matrices that changed",
            "matrix_change": "Relative change of the weight matrices that changed (median of ‖ΔW‖ / ‖W‖)",
            "relative_change": "Relative change of all weights as one vector, gains and biases included",
            "share_equal": "Share of weights exactly equal to the base",
        },
        heading="Weights",
        figures=(
            FigureSpec(
                "weight_drift", "visprobe.analyses.weights.weights_figure", baseline="Baseline: 0, no weight moved."
            ),
        ),
        place=120,
        rules=RULES,
        about_weights=True,
        drawn_settings=("groups",),
    ),
)
