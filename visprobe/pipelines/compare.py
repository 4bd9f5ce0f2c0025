"""Comparison of the vision encoders of checkpoints on one image set (`visprobe compare`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visprobe.analyses.core.registry import chosen
from visprobe.analyses.core.verdict import headline, verdict
from visprobe.encoders.baseline import Baseline
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import UsageError
from visprobe.io.disk import plain_errors
from visprobe.pipelines.measure import run_analyses
from visprobe.pipelines.measurement import Measurement, Options, as_list
from visprobe.pipelines.session import Session, all_sites, format_baselines, open_encoders
from visprobe.results.result import Result


@plain_errors
def compare(
    checkpoints: Sequence[str | Path],
    data: str | Path,
    options: Options | None = None,
    also: Sequence[Result] = (),
) -> Measurement:
    """Compare the vision encoder of each checkpoint with that of the first: accuracy, drift of features and weights.

    Args:
        checkpoints: Two or more checkpoint folders; the first is the base.
        data: Folder or name of an image set, for `open_images`.
        options: Options of the measurement.
        also: Results from elsewhere on the same checkpoints (answer accuracy), for the verdict and the report.

    Returns:
        Prototype accuracy (if the images have classes; fractions of 1), representation drift (CKA, at most 1) and
        weight drift (change relative to the base's norm), each with 95 % intervals, baselines and paired differences,
        and a verdict. `Options.analyses` asks for others.

    Raises:
        UsageError: If there are fewer than two checkpoints, or their encoders have different shapes.
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.compare(["base", "sft", "dpo"], "digits", visprobe.Options(limit=200)).figure("drift")`
    """
    options, checkpoints = options or Options(), as_list(checkpoints)
    if len(checkpoints) < 2:
        raise UsageError(
            "compare needs two checkpoints or more",
            hint="Name the base first: visprobe compare BASE SFT DPO --data DATA",
        )
    analyses = chosen(options.analyses)
    opened = open_encoders([*checkpoints, *options.same_recipe], options)
    base = opened[0]
    refuse_other_shapes(base, opened[1:])
    encoders, again = opened[: len(checkpoints)], opened[len(checkpoints) :]
    for encoder in again:
        encoder.name += " (same recipe)"
        encoder.baseline = Baseline("recipe", base.name)
    untrained = base.untrained(options.seed)
    baselines = [untrained, *format_baselines(checkpoints[0], base, options), *again]
    session = Session(encoders, baselines, data, options)
    results = [*run_analyses(session, analyses), *also]
    said = [*headline(results, base.name), *verdict(results, base.name)]
    return session.measurement(results, said)


def refuse_other_shapes(base: VisionEncoder, others: Sequence[VisionEncoder]) -> None:
    """Refuse encoders whose sites or patch grid differ from those of `base`.

    Raises:
        UsageError: If an encoder differs.
    """
    for other in others:
        if all_sites(other) != all_sites(base) or other.grid != base.grid:
            raise UsageError(
                f"{other.name} and {base.name} have encoders of different shape ({_shape(other)} against "
                f"{_shape(base)})",
                hint="Name checkpoints that descend from one base; for unrelated encoders use visprobe imagenet.",
            )


def _shape(encoder: VisionEncoder) -> str:
    patches = "{}x{} patches".format(*encoder.grid) if encoder.grid else "patches of any number"
    return f"{encoder.provenance.family}, {len(encoder.sites)} sites over {patches}"
