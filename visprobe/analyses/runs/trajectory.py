"""Training trajectory: when the encoder moved during training, and what that did to its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from visprobe.analyses.accuracy.imagenet import prototype_accuracy
from visprobe.analyses.accuracy.sentences import SEES
from visprobe.analyses.drift.drift import representation_drift
from visprobe.analyses.drift.noise_floor import adjusted, furthest_noise_floor, has_moved
from visprobe.analyses.weights.weights import weight_drift
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.jackknife import Replicated
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Estimate, Result, Row
from visprobe.results.statement import Statement, cka_interval, cka_text, compared, evidence, share, sign_of

_OF_WEIGHTS = ("relative_change", "matrix_change", "matrices_changed")
QUESTION = "When during training did the encoder move, and does it see better for it?"

# Maps a run's name to its moments in order: {"step": 100, "checkpoint": "sft step 100"}.
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
PRESENTATIONS = {
    "trajectory": Presentation(
        heading="Checkpoint",
        figures=(FigureSpec("trajectory", "visprobe.analyses.runs.trajectory_figure"),),
        place=20,
        checkpoints_downwards=True,
    )
}


@dataclass(frozen=True)
class State:
    """Encoder at one moment of training, under the name that its feature sets carry.

    Attributes:
        query: Features of the measured images, at the consumed site and after the projector.
        support: Features of the images that prototypes are computed from; None for leave-one-out.
        weights: Weights by canonical name.
    """

    query: FeatureSet
    support: FeatureSet | None
    weights: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return self.query.encoder


def measure_step(
    base: State,
    later: State,
    group_of: Callable[[str], str],
    rounding: Mapping[str, Replicated] | None = None,
    *,
    accuracy: bool = True,
) -> Result:
    """Measure one moment of training against the base.

    Args:
        base: State that training started from.
        later: Later state.
        group_of: Returns the weight group of a canonical name (`VisionEncoder.weight_group`).
        rounding: CKAs from `visprobe.analyses.drift.drift.rounding_of` for the base over the same images.
        accuracy: True if the images have classes to classify.

    Returns:
        Rows "cka" and, with `accuracy`, "top1" with its paired difference to the base, at the sites of the
        features; exact rows "relative_change", "matrix_change" and "matrices_changed" of "tower" and "projector".
        Where features equal the base's bit for bit, CKA is exactly 1. settings["p_beyond"] has the p-values that
        the features are no further from the base's than by rounding, by checkpoint and site.

    Raises:
        DataError: If the images do not allow one of the measurements.
        CheckpointError: If the weights do not belong together.
    """
    drift = representation_drift(base.query, [later.query], rounding=rounding)
    weights = weight_drift(base.name, base.weights, {later.name: later.weights}, group_of)
    rows = [*drift.rows, *_where_equal(drift, base, later)]
    if accuracy:
        top1 = prototype_accuracy([base.query, later.query], _supports(base, later))
        rows += top1.select(checkpoint=later.name, measure="top1")
    rows += [row for measure in _OF_WEIGHTS for row in weights.select(measure=measure)
             if row.site in ("tower", "projector")]  # fmt: skip
    warnings = drift.warnings[len(drift.identical) :]  # equality has rows here, so no warning
    return Result("trajectory", QUESTION, tuple(rows), {"p_beyond": drift.settings["p_beyond"]}, warnings)


def trajectory_result(
    base: State, noise: Sequence[State], untrained: State, steps: Sequence[Result], runs: Runs, *, accuracy: bool = True
) -> Result:
    """Collect all moments of all runs beside the base and the baselines.

    Args:
        base: State that every run started from.
        noise: The base with weights rounded to bfloat16, and where it is not run in float32, in float32: the baselines
            of "cka".
        untrained: Encoder of its shape with fresh weights: the baseline of "top1".
        steps: Results of `measure_step`, one for each moment.
        runs: Moments of each run, in order.
        accuracy: True if the images have classes to classify.

    Returns:
        Rows of `steps`, of the base and of the baselines; the settings hold `runs` and, in "p_moved", the p-values of
        `steps` adjusted over all moments and sites of their run.
    """
    rows = list(representation_drift(base.query, [], [state.query for state in noise]).rows)
    settings: dict[str, Any] = {"base": base.name, "images": base.query.images, "consumed": base.query.consumed}
    if accuracy:
        states = [base, untrained]
        top1 = prototype_accuracy([s.query for s in states], _supports(*states))
        rows += top1.select(measure="top1")
        settings |= {key: top1.settings[key] for key in ("protocol", "classes", "chance")}
    settings["runs"] = {run: [dict(moment) for moment in moments] for run, moments in runs.items()}
    settings["p_moved"] = _p_moved(steps, settings["runs"])
    rows += [row for step in steps for row in step.rows]
    warnings = dict.fromkeys(text for step in steps for text in step.warnings)
    return Result("trajectory", QUESTION, tuple(rows), settings, tuple(warnings))


def _supports(*states: State) -> list[FeatureSet] | None:
    found = [state.support for state in states if state.support is not None]
    return found or None


def _where_equal(drift: Result, base: State, later: State) -> Iterator[Row]:
    """Yield a CKA of 1 where features are equal: in a sequence, "not yet moved" is a number too."""
    n = len(base.query.item_ids)
    for site in base.query.sites:
        if not drift.select(checkpoint=later.name, site=site, role="value"):
            yield Row(later.name, site, "cka", Estimate.exact(1.0, n, "CKA"), base.name)


def _p_moved(steps: Sequence[Result], runs: Runs) -> dict[str, dict[str, float]]:
    """Adjust the p-values of each run over its moments and sites."""
    alone = {name: p for step in steps for name, p in step.settings["p_beyond"].items()}
    found: dict[str, dict[str, float]] = {}
    for moments in runs.values():
        names = [moment["checkpoint"] for moment in moments]
        for (name, site), p in adjusted({(n, site): p for n in names for site, p in alone[n].items()}).items():
            found.setdefault(name, {})[site] = p
    return found


def rounding(result: Result, site: str) -> tuple[Row, str]:
    """Return the number-format baseline furthest from the base at a site, and its name in words."""
    found = furthest_noise_floor(result, site=site, measure="cka")
    assert found is not None  # every trajectory has such baselines
    return found


def trajectory_verdict(result: Result) -> list[Statement]:
    """State for each run when the consumed features moved, how far they are at the end, and if accuracy changed.

    A site has moved if it is more than six times as far from the base as the base rounded to bfloat16, by a paired
    test over the same images, adjusted over all moments and sites of the run (`visprobe.analyses.drift.noise_floor`);
    it sees better or worse if the interval of the paired top-1 difference excludes 0. A first step is the first of the
    measured moments.

    Args:
        result: A result of `trajectory_result`.
    """
    statements: list[Statement] = []
    for run, moments in result.settings["runs"].items():
        steps = {moment["checkpoint"]: int(moment["step"]) for moment in moments}
        for site in _sites(result):
            statements.append(_when(result, run, site, steps))
        last = [*steps][-1]
        statements += [*_weights_at_the_end(result, run, last, steps[last]), *_sees(result, run, last, steps[last])]
    return statements


def _sites(result: Result) -> dict[str, str]:
    consumed = str(result.consumed)
    sites = {consumed: f"at {consumed} (what the language model reads)", "projected": "after the projector"}
    return {site: where for site, where in sites.items() if result.select(site=site, measure="cka")}


def _when(result: Result, run: str, site: str, steps: Mapping[str, int]) -> Statement:
    rows = [row for row in result.select(site=site, measure="cka", role="value") if row.checkpoint in steps]
    where, (baseline, noise), end = _sites(result)[site], rounding(result, site), rows[-1]
    step = steps[end.checkpoint]
    if end.estimate.method == "exact":
        text = f"{run}: the features {where} are at step {step}, the last, equal to those of the base bit for bit."
        return Statement(text, evidence(result, [end]))
    beyond = [row for row in rows if has_moved(result, row)]
    text = (
        f"{run}: the features {where} {_since(rows, beyond, steps)}; CKA at step {step}, the last, "
        f"{cka_interval(end.estimate)} against {cka_text(baseline.estimate.value)} for {noise}."
    )
    return Statement(text, evidence(result, [*beyond[:1], *([end] if beyond[:1] != [end] else []), baseline]))


def _since(rows: Sequence[Row], beyond: Sequence[Row], steps: Mapping[str, int]) -> str:
    if not beyond:
        return f"did not measurably move at any of {len(rows)} moments"
    first = rows.index(beyond[0])
    before = f"not yet at step {steps[rows[first - 1].checkpoint]}" if first else "the first that was looked at"
    return f"had measurably moved by step {steps[beyond[0].checkpoint]} ({before})"


def _weights_at_the_end(result: Result, run: str, last: str, step: int) -> Iterator[Statement]:
    tower = {"checkpoint": last, "site": "tower"}
    changes, counts = (result.select(**tower, measure=one) for one in ("matrix_change", "matrices_changed"))
    for row, count in zip(changes, counts, strict=True):
        of = count.estimate
        text = f"{run}: by step {step} {round(of.value * of.n)} of {of.n} weight matrices of the tower changed"
        if of.value:
            text += f", by {share(row)} in the median of those (‖ΔW‖ / ‖W‖, Frobenius)"
        yield Statement(f"{text}.", evidence(result, [row, count]))


def _sees(result: Result, run: str, last: str, step: int) -> Iterator[Statement]:
    base = result.base
    for site, where in _sites(result).items():
        wanted = {"site": site, "measure": "top1"}
        for row in result.select(**wanted, checkpoint=last, role="difference"):
            own = result.select(**wanted, checkpoint=last, role="value")
            other = result.select(**wanted, checkpoint=base, role="value")
            text = f"{run} at step {step} {SEES[sign_of(row.estimate)][0]} {base} {where}: "
            yield Statement(f"{text}top-1 {compared(row, own, other)}.", evidence(result, [*own, *other, row]))
