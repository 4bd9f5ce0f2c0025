"""Spectrum of the weight change: its rank, and its share in the base's strong singular directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from torch import Tensor

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.weights.weights import shared_weights
from visprobe.encoders.structure.tensor_class import CLASSES, by_class, tensor_class
from visprobe.metrics.arrays import Array
from visprobe.metrics.weights.spectral_change import change_directions, top_singular
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import BaselineKind, Estimate, Result, Row, role_of

QUESTION = "In how many directions did the weights change, and were those the base's own strong directions?"
TOP = 16

Weights = Mapping[str, Tensor]
_MATRICES = {
    "patch_embedding", "attention_q", "attention_k", "attention_v", "attention_out", "mlp_in", "mlp_gate", "mlp_out",
    "projector",
}  # fmt: skip


@dataclass(frozen=True)
class Spectrum:
    """Measures of the change of one weight matrix.

    Attributes:
        name: Canonical name of the weight.
        kind: Class of the weight (`tensor_class`).
        group: Weight group.
        shape: Rows (output) and columns (input).
        k: Number of the base's singular directions used.
        squared_change: Squared Frobenius norm of the change.
        spectral_change: Largest singular value of the change over that of the base.
        stable_rank: Squared Frobenius over squared spectral norm of the change.
        energy_left: Share of the change's energy within the base's top-k left directions.
        energy_right: Share within its top-k right directions.
        energy_both: Share within both.
        angle_left: Largest principal angle between the top-k left subspaces before and after, in degrees.
        angle_right: Largest principal angle between the top-k right subspaces, in degrees.
    """

    name: str
    kind: str
    group: str
    shape: tuple[int, int]
    k: int
    squared_change: float
    spectral_change: float
    stable_rank: float
    energy_left: float
    energy_right: float
    energy_both: float
    angle_left: float
    angle_right: float

    def random(self) -> dict[str, float]:
        """Return the measures of a random direction: exact energies, stable rank in the limit of large m and n."""
        (m, n), k = self.shape, self.k
        rank = m * n / (math.sqrt(m) + math.sqrt(n)) ** 2
        return {"stable_rank": rank, "energy_left": k / m, "energy_right": k / n, "energy_both": k * k / (m * n)}


def weight_spectrum(
    base_name: str,
    base: Weights,
    others: Mapping[str, Weights],
    group_of: Callable[[str], str],
    k: int = TOP,
    class_of: Callable[[str, str], str] = tensor_class,
) -> Result:
    """Measure size, rank and direction of the change of every weight matrix, summed up by class.

    Args:
        base_name: Name of the base checkpoint.
        base: Weights of the base by canonical name, as stored.
        others: Weights of each descendant, by its name.
        group_of: Returns the weight group of a canonical name.
        k: Number of the base's singular directions; at most a quarter of a matrix's smaller side is used.
        class_of: Returns the class of a weight by its name and group (`Family.tensor_class`).

    Returns:
        Rows by class: "spectral_change", "stable_rank", "angle_left" and "angle_right" (degrees), medians over the
        matrices of the class; "energy_left", "energy_right" and "energy_both" in [0, 1], over all of them together.
        Baseline rows "<checkpoint> (random direction)". settings["matrices"] holds each matrix of each checkpoint.
        Matrices that did not change have no direction and are left out.

    Raises:
        CheckpointError: If a descendant shares no weight with the base, or one differs in shape or is not finite.

    Source:
        Stable rank: Rudelson & Vershynin 2007 (math/0503442). New strong directions after fine-tuning: Shuttleworth
        et al. 2024 (2410.21228).
    """
    matrices = {name: shared_weights(base_name, base, name, weights, group_of) for name, weights in others.items()}
    found: dict[str, list[Spectrum]] = {name: [] for name in others}
    skipped: list[str] = []
    for key in base:
        sides = {name: weights[key] for name, weights in others.items() if key in matrices[name]}
        group = group_of(key)
        for name, spectra in _of_weight(key, group, class_of(key, group), base[key], sides, k, skipped):
            found[name] += spectra
    rows = [row for name, spectra in found.items() for row in _rows(name, spectra, base_name)]
    settings: dict[str, Any] = {
        "base": base_name,
        "k": k,
        "matrices": {name: [_plain(one) for one in spectra] for name, spectra in found.items()},
    }
    warnings = [f"{key} has fewer singular values above rounding than are looked at: it is left out" for key in skipped]
    return Result("spectrum", QUESTION, tuple(rows), settings, tuple(warnings))


def _of_weight(
    key: str, group: str, whole: str, tensor: Tensor, sides: Mapping[str, Tensor], k: int, skipped: list[str]
) -> Iterator[tuple[str, list[Spectrum]]]:
    """Yield the spectra of one weight in every checkpoint; the base's directions are computed once for all."""
    for place, (kind, part) in enumerate(by_class(whole, tensor)):
        if kind not in _MATRICES or part.ndim < 2 or min(len(part), part[0].numel()) < 4:
            continue
        origin = _matrix(part)
        changes = {name: _matrix(by_class(whole, side)[place][1]) - origin for name, side in sides.items()}
        changes = {name: change for name, change in changes.items() if change.any()}
        try:
            top = top_singular(origin, min(k, min(origin.shape) // 4)) if changes else None
            for name, change in changes.items():
                assert top is not None
                shape = (origin.shape[0], origin.shape[1])
                found = change_directions(origin, change, top)
                yield name, [Spectrum(key, kind, group, shape, len(top[1]), *found)]
        except ValueError:
            skipped.append(key)


def _matrix(tensor: Tensor) -> Array:
    matrix: Array = tensor.double().reshape(len(tensor), -1).numpy()
    return matrix


def _rows(name: str, spectra: Sequence[Spectrum], base: str) -> Iterator[Row]:
    for kind in CLASSES:
        same = [one for one in spectra if one.kind == kind]
        if not same:
            continue
        own = [asdict(one) for one in same]
        baselines = [one.random() for one in same]
        energy = [one.squared_change for one in same]
        for measure, unit in (("spectral_change", "ratio"), ("stable_rank", "rank")):
            yield _row(name, kind, measure, median(one[measure] for one in own), len(same), unit, base)
        rank = median(one["stable_rank"] for one in baselines)
        yield _row(f"{name} (random direction)", kind, "stable_rank", rank, len(same), "rank", base, "control")
        for measure in ("energy_left", "energy_right", "energy_both"):
            value, baseline = (_weighted([one[measure] for one in each], energy) for each in (own, baselines))
            yield _row(name, kind, measure, value, len(same), "fraction", base)
            yield _row(f"{name} (random direction)", kind, measure, baseline, len(same), "fraction", base, "control")
        for measure in ("angle_left", "angle_right"):
            yield _row(name, kind, measure, median(one[measure] for one in own), len(same), "degrees", base)


def _row(
    name: str, kind: str, measure: str, value: float, n: int, unit: str, base: str, of: BaselineKind | None = None
) -> Row:
    return Row(name, kind, measure, Estimate.exact(value, n, unit), base, role_of(of), of)


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def _plain(spectrum: Spectrum) -> dict[str, Any]:
    plain = asdict(spectrum) | {"shape": list(spectrum.shape)}
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in plain.items()}


def _run(inputs: Inputs) -> Result:
    base, *others = inputs.encoders
    weights = {other.name: other.weights() for other in others}
    return weight_spectrum(base.name, base.weights(), weights, base.weight_group, class_of=base.family.tensor_class)


SPECTRUM = Analysis(
    name="spectrum",
    question=QUESTION,
    needs=lambda encoder: [],
    run=_run,
    baselines="none",
    presentation=Presentation(
        titles={
            "spectral_change": "Largest singular value of the change over that of the base, median over matrices",
            "stable_rank": "Stable rank of the change, median over matrices",
            "energy_left": "Energy of the change in the base's top left singular directions",
            "energy_right": "Energy of the change in the base's top right singular directions",
            "energy_both": "Energy of the change in both",
            "angle_left": "Largest principal angle of the top left subspace in degrees, median over matrices",
            "angle_right": "Largest principal angle of the top right subspace in degrees, median over matrices",
        },
        heading="Weights",
        figures=(
            FigureSpec(
                "weight_spectrum",
                "visprobe.analyses.weights.spectrum_figure",
                baseline="Baseline: a change of random direction, 1 in the middle and on the right.",
            ),
        ),
        place=130,
        about_weights=True,
    ),
)
