"""What checkpoints see, each for itself: any analyses on encoders of any shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visprobe.analyses.core.analysis import Analysis
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import DataError
from visprobe.io.disk import plain_errors
from visprobe.pipelines.analysing import run_analyses
from visprobe.pipelines.measurement import Measurement, Options, as_list
from visprobe.pipelines.session import Session, open_encoders


@plain_errors
def measure(
    checkpoints: str | Path | Sequence[str | Path],
    data: str | Path,
    analyses: Sequence[Analysis],
    options: Options | None = None,
) -> Measurement:
    """Run analyses on the encoders of checkpoints that need not have one shape or one base.

    Args:
        checkpoints: One or more checkpoint folders; differences are taken to the first.
        data: What `open_images` understands.
        analyses: What is asked; one that cannot answer is left out with a warning, unless none can.
        options: How to run.

    Returns:
        The results, with an untrained tower of each shape as floor.

    Raises:
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.measure(["base", "dpo"], "digits", [MY_ANALYSIS])`, for analyses of your own
        (`visprobe.analyses.core.analysis.Analysis`).
    """
    options = options or Options()
    encoders = open_encoders(as_list(checkpoints), options)
    for equip in (analysis.equip for analysis in analyses if analysis.equip):
        encoders = [equip(encoder) for encoder in encoders]
    session = Session(encoders, _untrained_of_each_shape(encoders, options.seed), data, options)
    results = run_analyses(session, analyses)
    if not results:
        raise DataError("; ".join(session.warnings), hint="Give other images, or ask for another analysis.")
    return session.measurement(results)


def _untrained_of_each_shape(encoders: Sequence[VisionEncoder], seed: int) -> list[VisionEncoder]:
    """One untrained tower per shape among the encoders, named after the first of its shape if there are several."""
    first = {(e.provenance.family, e.sites, e.grid, e.processor_hash): e for e in reversed(encoders)}
    floors = []
    for encoder in reversed(first.values()):
        floor = encoder.untrained(seed)
        floor.name = floor.name if len(first) == 1 else f"{floor.name} ({encoder.name})"
        floors.append(floor)
    return floors
